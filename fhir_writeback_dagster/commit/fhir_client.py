"""FHIR's verbs on one EHR: authorised requests, reads, searches to their last page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import urlencode, urljoin

from fhir_writeback_dagster.commit.auth.client_auth import check_method
from fhir_writeback_dagster.commit.auth.credential_log import approved_endpoint, teller
from fhir_writeback_dagster.commit.auth.scopes import needed
from fhir_writeback_dagster.commit.auth.tokens import SECONDS, TokenClient, Tokens
from fhir_writeback_dagster.commit.http.egress import Egress, production_hosts
from fhir_writeback_dagster.commit.http.request import Request
from fhir_writeback_dagster.commit.http.tls import certificate_of, client_context
from fhir_writeback_dagster.commit.http.transport import ENCODED, TOO_LARGE, Http, NoAnswer
from fhir_writeback_dagster.commit.limits.rate_windows import RateLimiter
from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.commit.protocol.error_classes import (
    GATEWAY,
    ErrorClass,
    Recovery,
    classify,
    is_gateways,
    unanswered_outcome,
)
from fhir_writeback_dagster.commit.protocol.rights import named_scopes
from fhir_writeback_dagster.commit.protocol.searchset import Incomplete, SearchSet, matches, next_link
from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.orchestration.target import read_target
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.rules.target.matrix import load_vendor

FHIR_JSON = "application/fhir+json"
PAGE, SMALL_PAGE = 500, 50
"""Matches that are asked for in one page; and where that is refused."""
_OF_THE_TARGET = frozenset({429, 502, 503, 504})
"""Statuses by which a target, or what stands in front of it, speaks of itself."""


class Unreadable(TargetError):
    """A read or search of the EHR did not succeed; ``outcome`` is its class, ``status`` and ``codes`` what the answer said."""

    def __init__(self, outcome: ErrorClass, what: str, where: str, answer: Answer | None = None, *, fix: str = "") -> None:
        self.outcome = outcome
        self.status = answer.status if answer else None
        self.codes = answer.codes() if answer else frozenset[str]()
        self.scopes = tuple(named_scopes(answer)) if answer else ()
        fix = fix or f"{outcome.recovery}; nothing was written or lost"
        self.silent = False
        super().__init__(outcome.code, f"{what} did not succeed", where=where, fix=fix)

    @property
    def refused(self) -> bool:
        """Did the EHR answer to what was asked for, rather than be silent, be down or ask to be left alone?"""
        return not self.silent and self.status not in _OF_THE_TARGET and self.outcome.code != GATEWAY.code


@dataclass(frozen=True, slots=True)
class Paging:
    """How searches are paged: the ``largest`` page that is asked for (0: none is named), how many pages are read, and codes of
    OperationOutcomes that say nothing against an answer (`commit.protocol.searchset`).
    """

    largest: int = PAGE
    most_pages: int = 10_000
    informational: frozenset[str] = frozenset()
    plain: bool = False
    """Its errors are JSON of its own (`commit.protocol.error_classes.is_gateways`)."""


class FhirClient:
    """One EHR for the length of a run: see :func:`open_ehr`."""

    def __init__(
        self,
        http: Http,
        tokens: Tokens,
        headers: Mapping[str, str] | None = None,
        *,
        bases: tuple[str, ...] = (),
        paging: Paging = Paging(),
    ) -> None:
        """:param bases: the URLs under which the EHR names its own resources; left out: its FHIR base."""
        self._http, self._tokens, self._headers = http, tokens, dict(headers or {})
        self.base_url = http.egress.base_url
        self.bases, self.paging = bases or (self.base_url,), paging
        self.date: datetime | None = None
        """What the EHR's own clock said last."""

    @property
    def http(self) -> Http:
        """What carries the requests, for documents that are none of FHIR."""
        return self._http

    @property
    def requests(self) -> int:
        """How many requests left so far, token requests included."""
        return self._http.requests

    async def authorize(self) -> None:
        """Have a token now rather than at the first request.

        :raises TargetError: there is none to be had, or a scope is missing.
        """
        await self._tokens.header()

    async def send(self, request: Request) -> Answer:
        """One request; a 401 gets one new token and the same request again (it was not acted on).

        :raises NoAnswer: no whole answer came.
        :raises TargetError: no token could be had; the request was not sent.
        """
        token = await self._tokens.header()
        # HAPI answers a search of the last minute from its cache otherwise: a look would not see what was just written there.
        headers = {"Accept": FHIR_JSON, "Cache-Control": "no-cache", **self._headers, **request.headers}
        request = replace(request, url=self._absolute(request.url), headers={**headers, **token})
        answer = await self._http.request(request)
        if answer.status == 401 and await self._tokens.refused(token):
            token = await self._tokens.header()
            answer = await self._http.request(replace(request, headers={**headers, **token}, had_turn=False))
        self.date = answer.date() or self.date
        return answer

    def _absolute(self, url: str) -> str:
        if url.startswith(("http://", "https://", "/")):
            return urljoin(self.base_url, url)
        return f"{self.base_url}/{url}".rstrip("/")

    async def read(self, resource_type: str, resource_id: str, *, request_id: str = "") -> Answer:
        """The answer to a read, whatever it is.

        :raises NoAnswer: none came.
        """
        headers = {"X-Request-Id": request_id} if request_id else {}
        return await self.send(Request("GET", f"{resource_type}/{resource_id}", headers))

    async def get(self, resource_type: str, resource_id: str) -> Resource | None:
        """The resource as it stands; None: it is gone, or never was (404, 410).

        :raises Unreadable: nobody can say.
        """
        answer = await self._ask(Request("GET", f"{resource_type}/{resource_id}"), f"reading {resource_type}")
        if answer.status in (404, 410) and not is_gateways(answer, plain=self.paging.plain):
            return None
        found = self._whole(answer, resource_type, f"reading {resource_type}")
        return found if found.get("id") == resource_id else None

    async def search(self, resource_type: str, params: Sequence[tuple[str, str]]) -> list[Resource]:
        """Every match, over all pages, each once and in the version that came last.

        :raises Unreadable: the answer is not complete; what came is dropped, because half an answer proves no absence.
        """
        found = {resource["id"]: resource async for page in self.pages(resource_type, params) for resource in page}
        return list(found.values())

    async def pages(
        self, resource_type: str, params: Sequence[tuple[str, str]], *, count: int = PAGE
    ) -> AsyncIterator[list[Resource]]:
        """Page after page of matches. The search itself is a POST, so that no value stands in a URL that servers log.

        :raises Unreadable: a page did not come, or the pages together are not a complete answer (`commit.protocol.searchset`).
        """
        found = SearchSet(resource_type, self.paging.informational, self.paging.most_pages)
        bundle = await self._first(resource_type, params, count)
        while True:
            try:
                yield found.take(bundle)
                following = next_link(bundle)
                if following is None:
                    found.end()
                    return
                url = self._below_base(following, resource_type)
                found.follow(url)
            except Incomplete as half:
                raise self._incomplete(half, resource_type) from None
            bundle = await self._page(url, resource_type)

    async def _first(self, resource_type: str, params: Sequence[tuple[str, str]], count: int) -> Resource:
        """The first page; with a smaller ``_count``, or none, where the EHR refuses the one that was asked for."""
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Prefer": "handling=strict"}
        most = min(count, self.paging.largest)
        sizes = sorted({most, 0, *((SMALL_PAGE,) if most > SMALL_PAGE else ())}, reverse=True)
        for size in sizes:
            form = urlencode([*params, *([("_count", str(size))] if size else [])]).encode()
            try:
                bundle = await self._bundle(Request("POST", f"{resource_type}/_search", headers, form, "search"), resource_type)
            except Unreadable as error:
                if error.outcome.code not in ("malformed", "unprocessable") or "required" in error.codes or size == sizes[-1]:
                    raise
                continue
            self.paging = self.paging if size == sizes[0] else replace(self.paging, largest=size)
            return bundle
        raise AssertionError("no size was tried")

    async def _page(self, url: str, what: str) -> Resource:
        """A page that follows. A server that has forgotten the search by then says 404 or 410: it is asked anew another time."""
        try:
            return await self._bundle(Request("GET", url), what)
        except Unreadable as error:
            if error.status in (404, 410):
                raise Unreadable(ErrorClass("page_expired", Recovery.RETRY), f"reading {what}", self.base_url) from None
            raise

    async def history(self, resource_type: str, resource_id: str) -> AsyncIterator[list[Resource]]:
        """Page after page of a resource's versions, the newest first.

        :raises Unreadable: a page did not come, or they have no end.
        """
        found = SearchSet(resource_type, self.paging.informational, self.paging.most_pages)
        bundle = await self._bundle(Request("GET", f"{resource_type}/{resource_id}/_history"), resource_type)
        while True:
            yield matches(bundle, resource_type)
            following = next_link(bundle)
            if following is None:
                return
            url = self._below_base(following, resource_type)
            try:
                found.follow(url)
            except Incomplete as half:
                raise self._incomplete(half, resource_type) from None
            bundle = await self._bundle(Request("GET", url), resource_type)

    def _below_base(self, link: str, what: str) -> str:
        url = urljoin(f"{self.base_url}/", link)
        if not self._http.egress.within_base(url):
            raise TargetError(
                "egress_refused",
                f"a page link of {what} leads away from the FHIR base",
                where=self.base_url,
                fix="set `ehr.base_url` to the base that the EHR's links use",
            )
        return url

    def _incomplete(self, half: Incomplete, what: str) -> Unreadable:
        fix = "it is asked again; what this vendor's outcomes only inform of is named in its matrix (`reads.informational`)"
        if half.code == "too_many_pages":
            fix = f"if {what} has more than {self.paging.most_pages} pages, raise the tenant's `ehr.most_pages`"
        return Unreadable(ErrorClass(half.code, Recovery.RETRY), f"searching {what}", self.base_url, fix=fix)

    async def count(self, resource_type: str) -> int | None:
        """How many resources of a type there are; None: the server does not say."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        search = Request("POST", f"{resource_type}/_search", headers, b"_summary=count", "search")
        total = (await self._bundle(search, resource_type)).get("total")
        return total if isinstance(total, int) else None

    async def capability(self) -> Resource:
        """The CapabilityStatement.

        :raises TargetError: it cannot be read, or it is not R4's.
        """
        found = await self._resource(Request("GET", "metadata"), "CapabilityStatement")
        version = str(found.get("fhirVersion", ""))
        if not version.startswith("4.0"):
            shown = version if version.replace(".", "").isalnum() and len(version) < 20 else "none"
            raise TargetError(
                "not_r4", f"the EHR says FHIR version {shown}", where=self.base_url, fix="point `ehr.base_url` to its R4 base"
            )
        return found

    async def _bundle(self, request: Request, what: str) -> Resource:
        return await self._resource(request, "Bundle", what)

    async def _resource(self, request: Request, expected: str, what: str = "") -> Resource:
        what = f"reading {what or expected}"
        return self._whole(await self._ask(request, what), expected, what)

    async def _ask(self, request: Request, what: str) -> Answer:
        try:
            return await self.send(request)
        except NoAnswer as none:
            outcome = unanswered_outcome("read", sent=none.sent)
            outcome = outcome if none.sent and none.code not in (ENCODED, TOO_LARGE) else ErrorClass(none.code, outcome.recovery)
            error = Unreadable(outcome, what, self.base_url)
            error.silent = none.code not in (ENCODED, TOO_LARGE)
            raise error from None

    def _whole(self, answer: Answer, expected: str, what: str) -> Resource:
        outcome, found = classify("read", answer, plain=self.paging.plain), answer.resource()
        if outcome.recovery is not Recovery.CONFIRM:
            raise Unreadable(outcome, f"{what} ({answer.status})", self.base_url, answer)
        if found is None or found["resourceType"] != expected:
            raise Unreadable(ErrorClass("odd_answer", Recovery.RETRY), f"{what} (no {expected} came)", self.base_url, answer)
        return found


@asynccontextmanager
async def open_ehr(run: RunContext, pace: RateLimiter | None = None, *, moved: bool = False) -> AsyncIterator[FhirClient]:
    """The tenant's EHR; connections are closed when the block ends.

    :param pace: the target's rate windows; a command of a few requests may do without.
    :param moved: a person says that another token endpoint than was approved is right.
    :raises TargetError: its address is not one that this tenant may have.
    :raises ConfigError: its vendor does not take this way to prove who we are, or the credential is wrong.
    """
    ehr, home, vendor = run.tenant.ehr, run.settings.home, load_vendor(run.tenant.ehr.vendor)
    check_method(run.tenant, vendor)
    egress = Egress(
        ehr.base_url,
        sandbox=ehr.sandbox,
        where=f"tenants/{run.id}.yaml ehr.base_url",
        never=production_hosts(run.settings.tenants) if ehr.sandbox else frozenset(),
    )
    async with Http(
        egress,
        concurrency=ehr.concurrency,
        timeout_s=ehr.timeout.total_seconds(),
        context=client_context(run.tenant, home),
        pace=pace,
        kept=filter(None, [vendor.answers.request_id_header.value]),
    ) as http:
        certificate = certificate_of(run.tenant, home)

        def renew() -> bool:
            nonlocal certificate
            before, certificate = certificate, certificate_of(run.tenant, home)
            if certificate != before:
                http.renew(client_context(run.tenant, home))
            return certificate != before

        scopes, approved = _needed(run)
        seconds = vendor.access.token_seconds.get(SECONDS)
        client = TokenClient(run.tenant, home, scopes, None if moved else approved, seconds, anywhere=moved)
        tokens = Tokens(http, client, teller(run), renew)
        own = dict.fromkeys(vendor.access.headers.get(()), ehr.auth.client_id) if ehr.auth.client_id else None
        paging = Paging(
            vendor.reads.page_size.get(PAGE),
            ehr.most_pages,
            frozenset(vendor.reads.informational.get(())),
            vendor.answers.outcomes.value is False,
        )
        yield FhirClient(http, tokens, own, bases=ehr.bases, paging=paging)


def _needed(run: RunContext) -> tuple[list[str], str | None]:
    """The scopes that the tenant's own mappings need, and the token endpoint that was approved."""
    if run.tenant.ehr.auth.type == "none":
        return [], None
    with run.store.tenant(run.id) as connection:
        target, approved = read_target(connection, run), approved_endpoint(connection, run)
    return needed(run.tenant, run.settings.mappings / "fhir", target), approved
