"""FHIR's verbs on one EHR: authorised requests, reads, searches to their last page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import urlencode, urljoin

from fhir_writeback_dagster.commit.auth.client_auth import check_method
from fhir_writeback_dagster.commit.auth.credential_log import approved_endpoint, teller
from fhir_writeback_dagster.commit.auth.scopes import needed
from fhir_writeback_dagster.commit.auth.tokens import SECONDS, TokenClient, Tokens
from fhir_writeback_dagster.commit.http.egress import Egress, production_hosts
from fhir_writeback_dagster.commit.http.request import Request
from fhir_writeback_dagster.commit.http.tls import certificate_of, client_context
from fhir_writeback_dagster.commit.http.transport import Http, NoAnswer
from fhir_writeback_dagster.commit.limits.rate_windows import RateLimiter
from fhir_writeback_dagster.commit.protocol.answer import Answer, dicts
from fhir_writeback_dagster.commit.protocol.error_classes import ErrorClass, Recovery, classify, unanswered_outcome
from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.orchestration.target import read_target
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.rules.target.matrix import load_vendor

FHIR_JSON = "application/fhir+json"
PAGE = 500
MAX_PAGES = 10_000


class Unreadable(TargetError):
    """A read or search of the EHR did not succeed; ``outcome`` is its class."""

    def __init__(self, outcome: ErrorClass, what: str, where: str) -> None:
        self.outcome = outcome
        super().__init__(
            outcome.code, f"{what} did not succeed", where=where, fix=f"{outcome.recovery}; nothing was written or lost"
        )


class FhirClient:
    """One EHR for the length of a run: see :func:`open_ehr`."""

    def __init__(self, http: Http, tokens: Tokens, headers: Mapping[str, str] | None = None) -> None:
        self._http, self._tokens, self._headers = http, tokens, dict(headers or {})
        self.base_url = http.egress.base_url

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
        if answer.status in (404, 410):
            return None
        found = self._whole(answer, resource_type, f"reading {resource_type}")
        return found if found.get("id") == resource_id else None

    async def search(self, resource_type: str, params: Sequence[tuple[str, str]]) -> list[Resource]:
        """Every match, over all pages.

        :raises Unreadable: a page did not come; what came before is dropped, because half an answer proves no absence.
        """
        return [resource async for page in self.pages(resource_type, params) for resource in page]

    async def pages(
        self, resource_type: str, params: Sequence[tuple[str, str]], *, count: int = PAGE
    ) -> AsyncIterator[list[Resource]]:
        """Page after page of matches. The search itself is a POST, so that no value stands in a URL that servers log."""
        form = urlencode([*params, ("_count", str(count))]).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Prefer": "handling=strict"}
        search = Request("POST", f"{resource_type}/_search", headers, form, "search")
        first = await self._bundle(search, resource_type)
        async for page in self._from(first, resource_type):
            yield page

    async def history(self, resource_type: str, resource_id: str) -> AsyncIterator[list[Resource]]:
        """Page after page of a resource's versions, the newest first.

        :raises Unreadable: a page did not come.
        """
        first = await self._bundle(Request("GET", f"{resource_type}/{resource_id}/_history"), resource_type)
        async for page in self._from(first, resource_type):
            yield page

    async def _from(self, bundle: Resource, resource_type: str) -> AsyncIterator[list[Resource]]:
        """What ``bundle`` holds, and the pages that follow it."""
        for _ in range(MAX_PAGES):
            yield matches(bundle, resource_type)
            following = _next_link(bundle)
            if following is None:
                return
            url = urljoin(f"{self.base_url}/", following)
            if not self._http.egress.within_base(url):
                raise TargetError(
                    "egress_refused",
                    f"a page link of {resource_type} leads away from the FHIR base",
                    where=self.base_url,
                    fix="set `ehr.base_url` to the base that the EHR's links use",
                )
            bundle = await self._bundle(Request("GET", url), resource_type)
        raise TargetError("endless_search", f"{resource_type} has more than {MAX_PAGES} pages", where=self.base_url)

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
            outcome = outcome if none.sent and none.code != "too_large" else ErrorClass(none.code, outcome.recovery)
            raise Unreadable(outcome, what, self.base_url) from None

    def _whole(self, answer: Answer, expected: str, what: str) -> Resource:
        outcome, found = classify("read", answer), answer.resource()
        if outcome.recovery is not Recovery.CONFIRM:
            raise Unreadable(outcome, f"{what} ({answer.status})", self.base_url)
        if found is None or found["resourceType"] != expected:
            raise Unreadable(ErrorClass("odd_answer", Recovery.RETRY), f"{what} (no {expected} came)", self.base_url)
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
        client = TokenClient(run.tenant, home, scopes, None if moved else approved, vendor.access.token_seconds.get(SECONDS))
        tokens = Tokens(http, client, teller(run), renew)
        yield FhirClient(
            http, tokens, dict.fromkeys(vendor.access.headers.get(()), ehr.auth.client_id) if ehr.auth.client_id else None
        )


def _needed(run: RunContext) -> tuple[list[str], str | None]:
    """The scopes that the tenant's own mappings need, and the token endpoint that was approved."""
    if run.tenant.ehr.auth.type == "none":
        return [], None
    with run.store.tenant(run.id) as connection:
        target, approved = read_target(connection, run), approved_endpoint(connection, run)
    return needed(run.tenant, run.settings.mappings / "fhir", target), approved


def matches(bundle: Resource, resource_type: str) -> list[Resource]:
    """The resources of ``resource_type`` that a searchset found; included ones and outcomes are left out."""
    found = []
    for entry in dicts(bundle.get("entry")):
        resource, search = entry.get("resource"), entry.get("search")
        mode = search.get("mode", "match") if isinstance(search, dict) else "match"
        if mode != "match" or not isinstance(resource, dict):
            continue
        if resource.get("resourceType") == resource_type and isinstance(resource.get("id"), str):
            found.append(resource)
    return found


def _next_link(bundle: Resource) -> str | None:
    urls = (link.get("url") for link in dicts(bundle.get("link")) if link.get("relation") == "next")
    return next((url for url in urls if isinstance(url, str) and url), None)
