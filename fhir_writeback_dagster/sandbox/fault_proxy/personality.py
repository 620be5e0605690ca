"""What an EHR always does otherwise than R4 says, as flags; see `rules/vendors` for who does what, with sources.

A personality is data: ``Personality(**yaml.safe_load(text))``. It changes requests before the server sees them and answers
before the client does; the server behind stays a real one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qsl

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.sandbox.fault_proxy.disguises import Disguise, disguised
from fhir_writeback_dagster.sandbox.fault_proxy.exchange import ProxyAnswer, ProxyInteraction, ProxyRequest, outcome
from fhir_writeback_dagster.sandbox.fault_proxy.faults import FHIR_JSON

_OF_A_BODY = ("content-type", "if-unmodified-since", "if-match", "prefer")
_OF_PATIENTS = frozenset({"Patient", "Encounter", "Consent"})
_NAME_NOBODY = frozenset({"_count", "_elements", "_format", "_lastUpdated", "_sort", "_summary", "_total"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Personality:
    """Nothing is unusual unless a flag says so.

    :param strips_identifiers: what is written loses its `identifier`: no search by ours ever finds it.
    :param drops_etags: no ``ETag`` in answers and no `meta.versionId`.
    :param ignores_if_none_exist: a conditional create creates.
    :param ignores_if_match: a stale update goes through.
    :param needs_if_match: an update without ``If-Match`` is refused with 412 (Oracle Health) or what this says.
    :param stale_status: what an update under a stale ``If-Match`` is told (Oracle Health: 409).
    :param heeds_time: an update with an ``If-Unmodified-Since`` that is past is refused with 412 (Canvas).
    :param idempotency_header: a create under a key that it bore before is a 409 with the original (HealthLake).
    :param nulls_on_put: elements that a PUT leaves empty, whatever it says.
    :param drops_elements: elements that no write stores, though it is answered with success.
    :param created_status: status of a create that made a resource (200: cannot be told from one that was there already).
    :param creates: the types that can be created; None: all.
    :param largest: bytes of the largest body that it takes; a larger one is a 413.
    :param outcomes: errors are OperationOutcomes; False: JSON of its own …
    :param error_field: … whose field of this name holds the code.
    :param empty_created: a create is answered without a body (Oracle Health).
    :param no_location: a create is answered without ``Location``.
    :param refuses_body_id: a create whose body has an `id` is refused (Epic).
    :param refuses_unfiltered: status of a search of patients, encounters or consents that names nobody (Epic).
    :param refuses_patients: a regular expression: a search that names a patient whose id it matches is refused with 403.
    :param combines: by type, parameters of which a search by patient needs one (US Core's mandatory combinations).
    :param informs: every search says in an OperationOutcome what changes nothing (Epic does on each).
    :param disguises_patients: how consents name their patients: each in one of these forms.
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
    stale_status: int | None = None
    heeds_time: bool = False
    idempotency_header: str | None = None
    nulls_on_put: tuple[str, ...] = ()
    drops_elements: tuple[str, ...] = ()
    creates: tuple[str, ...] | None = None
    largest: int | None = None
    outcomes: bool = True
    error_field: str | None = None
    created_status: int = 201
    empty_created: bool = False
    no_location: bool = False
    refuses_body_id: bool = False
    refuses_unfiltered: int | None = None
    refuses_patients: str | None = None
    combines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    informs: bool = False
    disguises_patients: tuple[Disguise, ...] = ()
    lacks: tuple[ProxyInteraction, ...] = ()
    requests: int | None = None
    window_s: float = 60.0
    retry_after: bool = False

    def refuses(self, request: ProxyRequest) -> ProxyAnswer | None:
        """The answer to what this EHR does not take at all; None: it does."""
        kind = request.interaction
        if kind in self.lacks:
            return self._refusal(404 if kind == "history" else 405, "not-supported")
        if self.largest is not None and len(request.body) > self.largest:
            return self._refusal(413, "too-long")
        if kind == "create" and self.creates is not None and request.path not in self.creates:
            return self._refusal(405, "not-supported")
        if self.needs_if_match and kind in ("update", "patch") and "if-match" not in request.headers:
            return self._refusal(self.needs_if_match, "conflict")
        if self.refuses_body_id and kind == "create" and "id" in (request.resource() or {}):
            return self._refusal(400, "invalid")
        if self.refuses_unfiltered and kind == "search" and _names_nobody(request):
            return self._refusal(self.refuses_unfiltered, "too-costly")
        return self._refuses_search(request) if kind == "search" else None

    def _refuses_search(self, request: ProxyRequest) -> ProxyAnswer | None:
        asked = _asked_for(request)
        patients = [one.removeprefix("Patient/") for name, value in asked if name == "patient" for one in value.split(",")]
        if self.refuses_patients and any(re.search(self.refuses_patients, patient) for patient in patients):
            return self._refusal(403, "forbidden")
        needed = self.combines.get(request.path.split("/")[0], ())
        if patients and needed and not any(name in needed for name, _ in asked):
            return self._refusal(400, "required")
        return None

    def looks_at(self, request: ProxyRequest) -> ProxyRequest | None:
        """What it reads first, to know whether the request comes too late; None: nothing."""
        timed = self.heeds_time and request.interaction in ("update", "patch") and "if-unmodified-since" in request.headers
        return ProxyRequest("GET", request.path, headers=_less(request.headers, _OF_A_BODY)) if timed else None

    def too_late(self, request: ProxyRequest, standing: ProxyAnswer) -> ProxyAnswer | None:
        """The refusal of an update of what changed after the time that it names."""
        changed, since = standing.headers.get("last-modified"), request.headers["if-unmodified-since"]
        late = changed is not None and parsedate_to_datetime(changed) > parsedate_to_datetime(since)
        return self._refusal(412, "conflict") if late else None

    def key_of(self, request: ProxyRequest) -> str | None:
        """The key under which a create is done once."""
        header = self.idempotency_header if request.interaction == "create" else None
        return request.headers.get(header.lower()) if header else None

    def hears(self, request: ProxyRequest) -> ProxyRequest:
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

    def says(self, request: ProxyRequest, answer: ProxyAnswer, base_url: str) -> ProxyAnswer:
        """The server's answer as this EHR gives it; ``base_url`` is its own FHIR base."""
        if self.drops_etags:
            answer = _without_versions(answer)
        stale = answer.status == 412 and request.interaction in ("update", "patch") and "if-match" in request.headers
        if self.stale_status and stale:
            answer = replace(answer, status=self.stale_status)
        if not self.outcomes and answer.status >= 400:
            return self._refusal(answer.status, _code_of(answer))
        if request.interaction == "create" and answer.status == 201:
            answer = replace(answer, status=self.created_status)
            answer = answer.without("location", "content-location") if self.no_location else answer
            answer = replace(answer, body=b"") if self.empty_created else answer
        if forms := self.disguises_patients:
            answer = _each_resource(answer, lambda resource: disguised(resource, forms, base_url))
        return _with_information(answer) if self.informs and request.interaction == "search" else answer

    def _refusal(self, status: int, code: str) -> ProxyAnswer:
        """An error as this EHR words it."""
        if self.outcomes:
            return ProxyAnswer(status, {"content-type": FHIR_JSON}, outcome(code))
        return ProxyAnswer(
            status, {"content-type": "application/json"}, canonicaljson.encode({self.error_field or "error": code})
        )

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


def _code_of(answer: ProxyAnswer) -> str:
    issues = (answer.resource() or {}).get("issue")
    return str(issues[0].get("code", "exception")) if isinstance(issues, list) and issues else "exception"


def _names_nobody(request: ProxyRequest) -> bool:
    """A search of a patient's types by parameters that ask for whatever there is; the next page of a search is none."""
    names = {name for name, value in _asked_for(request) if value}
    return request.path.split("/")[0] in _OF_PATIENTS and not any(name not in _NAME_NOBODY for name in names)


def _asked_for(request: ProxyRequest) -> list[tuple[str, str]]:
    """The parameters of a search, from its URL and its form."""
    form = request.body.decode(errors="replace") if request.method == "POST" else ""
    return parse_qsl(f"{request.query}&{form}")


def _changed(request: ProxyRequest, change: Callable[[Resource], Resource]) -> ProxyRequest:
    said = request.resource()
    return request if said is None else request.saying(change(said))


def _less(resource: Resource, names: tuple[str, ...]) -> Resource:
    return {name: value for name, value in resource.items() if name not in names}


def _without_versions(answer: ProxyAnswer) -> ProxyAnswer:
    """No ``ETag``, and no `versionId` in a resource, nor in those of a Bundle."""
    return _each_resource(answer.without("etag"), _versionless)


def _each_resource(answer: ProxyAnswer, change: Callable[[Resource], Resource]) -> ProxyAnswer:
    """``change`` made to the resource of an answer, and to those of a Bundle."""
    found = answer.resource()
    if found is None:
        return answer
    entries = [
        {**entry, "resource": change(entry["resource"])} if "resource" in entry else entry for entry in found.get("entry") or []
    ]
    return answer.saying(change({**found, "entry": entries} if entries else found))


def _with_information(answer: ProxyAnswer) -> ProxyAnswer:
    found = answer.resource()
    if found is None or found.get("type") != "searchset":
        return answer
    issue = [{"severity": "information", "code": "informational"}]
    told = {"resource": {"resourceType": "OperationOutcome", "issue": issue}, "search": {"mode": "outcome"}}
    return answer.saying({**found, "entry": [*(found.get("entry") or []), told]})


def _versionless(resource: Resource) -> Resource:
    meta = resource.get("meta")
    return {**resource, "meta": _less(meta, ("versionId",))} if isinstance(meta, dict) else resource
