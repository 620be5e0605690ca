"""Answers that look like evidence and are none: out of order, of another resource, without a body, cut, or not of the EHR at all.

Each has been seen on a real line; what it proves of our own request is less than it seems to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args
from urllib.parse import urlsplit

from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.sandbox.fault_proxy.disguises import BACKEND
from fhir_writeback_dagster.sandbox.fault_proxy.exchange import Exchange, ProxyAnswer, ProxyRequest

_PAGE = b"<html><head><title>Sign in</title></head><body><h1>The service is not available</h1></body></html>"
_OTHERS = "_count=50&_sort=-_lastUpdated"
_OF_A_RESOURCE = ("location", "content-location", "etag", "last-modified")


@dataclass(frozen=True, slots=True)
class Gateway:
    """Something before the EHR answers with a page of its own (a route that is gone, a login, a method that it does not let
    through). The EHR never sees the request, unless it ``acted``.
    """

    status: int = 404
    acted: bool = False

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        if self.acted:
            await exchange.forward(exchange.request)
        where = {"location": "https://login.example/sign-in"} if 300 <= self.status < 400 else {}
        return ProxyAnswer(self.status, {"content-type": "text/html; charset=utf-8", **where}, _PAGE)


@dataclass(frozen=True, slots=True)
class SwapEntries:
    """The server acts on a bundle; the entries of its answer come in another order, each whole in itself."""

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        answer = await exchange.forward(exchange.request)
        bundle = answer.resource()
        entries = (bundle or {}).get("entry") or []
        if bundle is None or len(entries) < 2:
            return answer
        return answer.saying({**bundle, "entry": [*entries[1:], entries[0]]})


@dataclass(frozen=True, slots=True)
class AnothersResource:
    """The server acts on a write; the answer shows another patient's resource of the type, with its `Location` and ``ETag``."""

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        request = exchange.request
        answer = await exchange.forward(request)
        ours = answer.resource()
        if answer.status >= 300 or ours is None or "resourceType" not in ours:
            return answer
        kind = request.path.split("/")[0]
        passed_on = {name: value for name, value in request.headers.items() if name in ("authorization", "accept")}
        listed = await exchange.forward(ProxyRequest("GET", kind, _OTHERS, {**passed_on, "cache-control": "no-cache"}))
        found = [entry.get("resource") or {} for entry in (listed.resource() or {}).get("entry") or []]
        other = next((r for r in found if r.get("subject") and r["subject"] != ours.get("subject")), None)
        if other is None:
            return answer
        version = (other.get("meta") or {}).get("versionId", "1")
        told = {"location": f"{kind}/{other['id']}/_history/{version}", "etag": f'W/"{version}"'}
        told = {name: value for name, value in told.items() if name in answer.headers}
        return replace(answer.saying(other), headers={**answer.without(*_OF_A_RESOURCE).headers, **told})


Form = Literal["as_it_is", "relative", "without_version", "of_the_backend"]
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True, slots=True)
class NoBody:
    """The server acts on a write and acknowledges it: status and `Location` in one of their forms, no body; in a bundle entry by
    entry.
    """

    form: Form = "as_it_is"

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        answer = await exchange.forward(exchange.request)
        bundle = answer.resource()
        if bundle is not None and bundle.get("type") in ("batch-response", "transaction-response"):
            return answer.saying({**bundle, "entry": [self._bare(entry) for entry in bundle.get("entry") or []]})
        if answer.status >= 300:
            return answer
        location = answer.headers.get("location")
        told = {"location": _WRITTEN[self.form](location)} if location else {}
        return replace(answer, headers={**answer.headers, **told}, body=b"")

    def _bare(self, entry: Resource) -> Resource:
        response = entry.get("response") or {}
        location = response.get("location")
        told = {"location": _WRITTEN[self.form](location)} if location else {}
        return {"response": {**response, **told}}


def _relative(location: str) -> str:
    """`Observation/1/_history/1`, of whatever form."""
    parts = urlsplit(location).path.split("/")
    kind = next((n for n, part in enumerate(parts) if part[:1].isupper()), 0)
    return "/".join(parts[kind:])


_WRITTEN: dict[Form, Callable[[str], str]] = {
    "as_it_is": lambda location: location,
    "relative": _relative,
    "without_version": lambda location: location.split("/_history")[0],
    "of_the_backend": lambda location: f"{BACKEND}/{_relative(location)}",
}


@dataclass(frozen=True, slots=True)
class CutSearch:
    """A search shows the first half of a page and no next one; that there is more is told by ``total``, or by an OperationOutcome
    among the entries.
    """

    told_by: Literal["total", "outcome"] = "total"

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        answer = await exchange.forward(exchange.request)
        found = answer.resource()
        if found is None or found.get("type") != "searchset" or not found.get("entry"):
            return answer
        entries = found["entry"]
        shown = entries[: len(entries) // 2]
        links = [link for link in found.get("link") or [] if link.get("relation") != "next"]
        if self.told_by == "total":
            return answer.saying({**found, "link": links, "entry": shown, "total": max(found.get("total", 0), len(entries))})
        issue = [{"severity": "error", "code": "incomplete"}]
        told = {"resource": {"resourceType": "OperationOutcome", "issue": issue}, "search": {"mode": "outcome"}}
        rest = {name: value for name, value in found.items() if name != "total"}
        return answer.saying({**rest, "link": links, "entry": [*shown, told]})


@dataclass(frozen=True, slots=True)
class RepeatEntries:
    """A search shows its first match twice, as where a resource moves from one page to the next while they are read."""

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        answer = await exchange.forward(exchange.request)
        found = answer.resource()
        if found is None or found.get("type") != "searchset" or not found.get("entry"):
            return answer
        return answer.saying({**found, "entry": [*found["entry"], found["entry"][0]]})


@dataclass(frozen=True, slots=True)
class LoopingPages:
    """The next page of a search is the page itself."""

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        answer = await exchange.forward(exchange.request)
        found = answer.resource()
        links = (found or {}).get("link") or []
        itself = next((link["url"] for link in links if link.get("relation") == "self"), None)
        if found is None or found.get("type") != "searchset" or itself is None:
            return answer
        others = [link for link in links if link.get("relation") != "next"]
        return answer.saying({**found, "link": [*others, {"relation": "next", "url": itself}]})


@dataclass(frozen=True, slots=True)
class OddBytes:
    """The server acts on it; its answer begins with a byte order mark, or holds one byte that is not UTF-8."""

    what: Literal["bom", "not_utf8"] = "bom"

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        answer = await exchange.forward(exchange.request)
        if self.what == "bom":
            return replace(answer, body=b"\xef\xbb\xbf" + answer.body) if answer.body else answer
        return replace(answer, body=answer.body.replace(b'"status":"', b'"status":"\xff', 1))
