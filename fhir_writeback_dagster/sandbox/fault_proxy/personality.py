"""What an EHR always does otherwise than R4 says, as flags; see `rules/vendors` for who does what, with sources.

A personality is data: ``Personality(**yaml.safe_load(text))``. It changes requests before the server sees them and answers
before the client does; the server behind stays a real one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fhir_writeback_dagster.sandbox.fault_proxy.exchange import Answer, Interaction, Request, Resource, outcome
from fhir_writeback_dagster.sandbox.fault_proxy.faults import FHIR_JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Personality:
    """Nothing is unusual unless a flag says so.

    :param strips_identifiers: what is written loses its `identifier`: no search by ours ever finds it.
    :param drops_etags: no ``ETag`` in answers and no `meta.versionId`.
    :param ignores_if_none_exist: a conditional create creates.
    :param ignores_if_match: a stale update goes through.
    :param needs_if_match: an update without ``If-Match`` is refused with 412 (Oracle Health) or what this says.
    :param nulls_on_put: elements that a PUT leaves empty, whatever it says.
    :param drops_elements: elements that no write stores, though it is answered with success.
    :param created_status: status of a create that made a resource (200: cannot be told from one that was there already).
    :param empty_created: a create is answered without a body (Oracle Health).
    :param no_location: a create is answered without ``Location``.
    :param refuses_body_id: a create whose body has an `id` is refused (Epic).
    :param lacks: interactions that it does not have: 405, or 404 for `history`.
    :param requests: at most so many requests …
    :param window_s: … in this many seconds by the clock (eClinicalWorks counts calendar minutes); the others get a 429.
    :param retry_after: whether that 429 says when to come again.
    """

    name: str = "plain"
    strips_identifiers: bool = False
    drops_etags: bool = False
    ignores_if_none_exist: bool = False
    ignores_if_match: bool = False
    needs_if_match: int | None = None
    nulls_on_put: tuple[str, ...] = ()
    drops_elements: tuple[str, ...] = ()
    created_status: int = 201
    empty_created: bool = False
    no_location: bool = False
    refuses_body_id: bool = False
    lacks: tuple[Interaction, ...] = ()
    requests: int | None = None
    window_s: float = 60.0
    retry_after: bool = False

    def refuses(self, request: Request) -> Answer | None:
        """The answer to what this EHR does not take at all; None: it does."""
        kind = request.interaction
        if kind in self.lacks:
            return _refusal(404 if kind == "history" else 405, "not-supported")
        if self.needs_if_match and kind in ("update", "patch") and "if-match" not in request.headers:
            return _refusal(self.needs_if_match, "conflict")
        if self.refuses_body_id and kind == "create" and "id" in (request.resource() or {}):
            return _refusal(400, "invalid")
        return None

    def hears(self, request: Request) -> Request:
        """The request as this EHR takes it."""
        kind = request.interaction
        if self.ignores_if_none_exist:
            request = request.without("if-none-exist")
        if self.ignores_if_match:
            request = request.without("if-match")
        if kind in ("create", "update"):
            lost = (*self._never_stored(), *(self.nulls_on_put if kind == "update" else ()))
            return _changed(request, lambda resource: _less(resource, lost)) if lost else request
        if kind == "bundle" and (self._never_stored() or self.ignores_if_none_exist):
            return _changed(request, self._bundle)
        return request

    def says(self, request: Request, answer: Answer) -> Answer:
        """The server's answer as this EHR gives it."""
        if self.drops_etags:
            answer = _without_versions(answer)
        if request.interaction == "create" and answer.status == 201:
            answer = replace(answer, status=self.created_status)
            answer = answer.without("location", "content-location") if self.no_location else answer
            answer = replace(answer, body=b"") if self.empty_created else answer
        return answer

    def _never_stored(self) -> tuple[str, ...]:
        return (*self.drops_elements, *(("identifier",) if self.strips_identifiers else ()))

    def _bundle(self, bundle: Resource) -> Resource:
        return {**bundle, "entry": [self._entry(entry) for entry in bundle.get("entry") or []]}

    def _entry(self, entry: Resource) -> Resource:
        request = entry.get("request") or {}
        if self.ignores_if_none_exist:
            request = _less(request, ("ifNoneExist",))
        stored = {"resource": _less(entry["resource"], self._never_stored())} if "resource" in entry else {}
        return {**entry, **stored, "request": request}


PLAIN = Personality()


def _refusal(status: int, code: str) -> Answer:
    return Answer(status, {"content-type": FHIR_JSON}, outcome(code))


def _changed(request: Request, change: Callable[[Resource], Resource]) -> Request:
    said = request.resource()
    return request if said is None else request.saying(change(said))


def _less(resource: Resource, names: tuple[str, ...]) -> Resource:
    return {name: value for name, value in resource.items() if name not in names}


def _without_versions(answer: Answer) -> Answer:
    """No ``ETag``, and no `versionId` in a resource, nor in those of a Bundle."""
    answer = answer.without("etag")
    found = answer.resource()
    if found is None:
        return answer
    entries = [
        {**entry, "resource": _versionless(entry["resource"])} if "resource" in entry else entry
        for entry in found.get("entry") or []
    ]
    return answer.saying(_versionless({**found, "entry": entries} if entries else found))


def _versionless(resource: Resource) -> Resource:
    meta = resource.get("meta")
    return {**resource, "meta": _less(meta, ("versionId",))} if isinstance(meta, dict) else resource
