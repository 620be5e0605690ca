"""What can go wrong with one exchange, each as a small frozen object.

``meet`` returns what the client hears; None: its connection is closed without an answer. Whether the server acted on the
request meanwhile is what makes one fault different from another.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.sandbox.fault_proxy.exchange import Exchange, ProxyAnswer, outcome

FHIR_JSON = "application/fhir+json"


class Fault(Protocol):
    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        """The answer that the client gets; None: none."""


@dataclass(frozen=True, slots=True)
class DropRequest:
    """The server never sees it."""

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:  # noqa: ARG002 - that is the fault
        return None


@dataclass(frozen=True, slots=True)
class DropAnswer:
    """The server acts on it, and nobody hears of it."""

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        await exchange.forward(exchange.request)
        return None


@dataclass(frozen=True, slots=True)
class Delay:
    """It is held for ``seconds`` and then forwarded, also to a client that waits no longer."""

    seconds: float

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        await asyncio.sleep(self.seconds)
        return await exchange.forward(exchange.request)


@dataclass(frozen=True, slots=True)
class Late:
    """The client is hung up on at once; the server gets the request ``seconds`` afterwards."""

    seconds: float

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        exchange.later(Delay(self.seconds).meet(exchange))
        return None


@dataclass(frozen=True, slots=True)
class Repeat:
    """It is forwarded twice, as a proxy does that retries what it must not (RFC 9110, 9.2.2); the second answer counts."""

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        await exchange.forward(exchange.request)
        return await exchange.forward(exchange.request)


@dataclass(frozen=True, slots=True)
class Say:
    """It is answered on the way with an OperationOutcome of ``code``; the server acts on it only if ``after_commit``.

    :param retry_after: the answer's ``Retry-After``: seconds, or whatever else an EHR writes there.
    :param challenge: the answer's ``WWW-Authenticate``.
    """

    status: int
    code: str
    retry_after: int | str | None = None
    challenge: str = ""
    after_commit: bool = False

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        if self.after_commit:
            await exchange.forward(exchange.request)
        headers = {"content-type": FHIR_JSON}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.challenge:
            headers["www-authenticate"] = self.challenge
        return ProxyAnswer(self.status, headers, outcome(self.code))


@dataclass(frozen=True, slots=True)
class SayBody:
    """It is answered on the way with these bytes; the server never sees it."""

    status: int
    body: bytes
    content_type: str = FHIR_JSON

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:  # noqa: ARG002 - it goes no further
        return ProxyAnswer(self.status, {"content-type": self.content_type}, self.body)


def expired_token() -> Say:
    """A 401 as RFC 6750 wants it, for a token that has expired on the way."""
    return Say(401, "expired", challenge='Bearer error="invalid_token", error_description="The access token expired"')


@dataclass(frozen=True, slots=True)
class Malformed:
    """The server acts on it; its answer ends in the middle of the JSON, and its length is right."""

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        answer = await exchange.forward(exchange.request)
        return replace(answer, body=answer.body[: max(1, len(answer.body) // 2)])


@dataclass(frozen=True, slots=True)
class Html:
    """The server acts on it; what comes back is the page of something in between."""

    status: int = 200

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        await exchange.forward(exchange.request)
        return ProxyAnswer(self.status, {"content-type": "text/html"}, b"<html><body><h1>Welcome</h1></body></html>")


@dataclass(frozen=True, slots=True)
class EmptyBody:
    """The server acts on it; its status and headers come without what was asked for (Oracle Health does so on a 201)."""

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        return replace(await exchange.forward(exchange.request), body=b"")


@dataclass(frozen=True, slots=True)
class WrongLocation:
    """The server acts on it; ``Location`` names another resource."""

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        answer = await exchange.forward(exchange.request)
        if "location" not in answer.headers:
            return answer
        return replace(answer, headers={**answer.headers, "location": f"{exchange.request.path}/no-such-resource"})


@dataclass(frozen=True, slots=True)
class CutBody:
    """The server acts on it; the connection is reset in the middle of its answer."""

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        answer = await exchange.forward(exchange.request)
        return replace(answer, cut=len(answer.body) // 2)


@dataclass(frozen=True, slots=True)
class Drip:
    """The server acts on it; its answer takes ``seconds`` to come, a little at a time."""

    seconds: float

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        return replace(await exchange.forward(exchange.request), drip_s=self.seconds)


@dataclass(frozen=True, slots=True)
class StaleSearch:
    """A search does not show yet what was stored less than ``seconds`` ago."""

    seconds: float

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        answer = await exchange.forward(exchange.request)
        found = answer.resource()
        if found is None or found.get("type") != "searchset" or "entry" not in found:
            return answer
        since = datetime.now(UTC) - timedelta(seconds=self.seconds)
        shown = [entry for entry in found["entry"] if not _stored_after(entry.get("resource") or {}, since)]
        hidden = len(found["entry"]) - len(shown)
        total = {"total": found["total"] - hidden} if "total" in found else {}
        return answer.saying({**found, "entry": shown, **total})


@dataclass(frozen=True, slots=True)
class PartialBatch:
    """Of a batch the server gets the first half; the rest is answered with ``status``, entry by entry. With ``lost`` nobody
    hears of either half. A transaction is all or nothing: it is forwarded as it is.
    """

    status: int = 429
    code: str = "throttled"
    lost: bool = False

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        bundle = exchange.request.resource() or {}
        entries: list[Resource] = bundle.get("entry") or []
        if bundle.get("type") != "batch" or len(entries) < 2:
            return None if self.lost else await exchange.forward(exchange.request)
        half = (len(entries) + 1) // 2
        answer = await exchange.forward(exchange.request.saying({**bundle, "entry": entries[:half]}))
        done = answer.resource()
        if self.lost:
            return None
        if done is None or len(done.get("entry") or []) != half:
            return answer
        issue = [{"severity": "error", "code": self.code}]
        refused = {"response": {"status": str(self.status), "outcome": {"resourceType": "OperationOutcome", "issue": issue}}}
        return answer.saying({**done, "entry": done["entry"] + [refused] * (len(entries) - half)})


@dataclass(frozen=True, slots=True)
class FewerEntries:
    """The server acts on a bundle; its answer lacks the last entry (HAPI FHIR leaves one out that it took for a repetition)."""

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        answer = await exchange.forward(exchange.request)
        bundle = answer.resource()
        if bundle is None or not bundle.get("entry"):
            return answer
        return answer.saying({**bundle, "entry": bundle["entry"][:-1]})


def _stored_after(resource: Resource, since: datetime) -> bool:
    stamp = (resource.get("meta") or {}).get("lastUpdated")
    return isinstance(stamp, str) and datetime.fromisoformat(stamp) > since
