"""HTTP to one EHR: guarded, limited in time and size, without redirects, cookies, proxies or retries of its own.

httpx is the API, aiohttp carries the bytes (`httpx_aiohttp`): httpx's own pool is quadratic in the connections that wait.
The ready request goes straight to the transport, because a client's conveniences (redirects, cookies, auth flow) are what a
writer of clinical data must not have by accident.

Whether a request without an answer may have been *sent* decides whether it may be sent again, so it is read from aiohttp's own
exception and not from httpx's: `httpx_aiohttp` maps a connection that the server closed under a request (the EHR may well have
acted on it) to ``ConnectTimeout``, the name for "no connection was made".
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from fhir_writeback_dagster.commit.http.egress import Egress, NotGlobal
from fhir_writeback_dagster.commit.http.request import Request
from fhir_writeback_dagster.commit.http.tls import client_context
from fhir_writeback_dagster.commit.limits.rate_windows import RateLimiter
from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.errors import TargetError

MAX_BYTES = 32 * 1024 * 1024
CONNECT_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 2.0
"""Shorter than any server's: a POST on a connection that the server is just closing is an unknown write."""

STOPPED, HELD = "stopped", "held"
"""Codes of requests that did not leave: the run was told to end before their turn; the target asked to be left alone after it."""
NO_TURN = frozenset({STOPPED, HELD})

_KEPT_HEADERS = (
    "content-type",
    "date",
    "etag",
    "last-modified",
    "location",
    "content-location",
    "retry-after",
    "www-authenticate",
)


class NoAnswer(Exception):
    """No (whole) answer came. ``sent`` is False only where certainly not a byte of the request left."""

    def __init__(self, code: str, *, sent: bool) -> None:
        super().__init__(code)
        self.code, self.sent = code, sent


class Http:
    """``async with Http(egress, …) as http``; at most ``concurrency`` requests at once, the others wait their turn."""

    def __init__(  # noqa: PLR0913 - the settings of one pool of connections, by name
        self,
        egress: Egress,
        *,
        concurrency: int,
        timeout_s: float,
        max_bytes: int = MAX_BYTES,
        pace: RateLimiter | None = None,
        context: ssl.SSLContext | None = None,
        kept: Iterable[str] = (),
    ) -> None:
        """:param kept: names of answers' headers to keep, besides those that FHIR and HTTP give a meaning."""
        self.egress, self.pace = egress, pace
        self.timeout_s, self._max_bytes = timeout_s, max_bytes
        self._slots = asyncio.Semaphore(concurrency)
        self._limit = concurrency
        self._context = context or client_context()
        self._kept = (*_KEPT_HEADERS, *(name.lower() for name in kept))
        self._transport: AiohttpTransport | None = None
        self._former: list[AiohttpTransport] = []
        self.requests = 0
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)  # httpx logs whole URLs at INFO

    async def __aenter__(self) -> Self:
        self._transport = self._over(self._context)
        return self

    def renew(self, context: ssl.SSLContext) -> None:
        """Connections are made with ``context`` from now on; what is in flight ends on those that it has."""
        if self._transport is not None:
            self._former.append(self._transport)
            self._transport = self._over(context)

    def _over(self, context: ssl.SSLContext) -> AiohttpTransport:
        return AiohttpTransport(
            verify=context,
            trust_env=False,
            client=lambda: aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._limit + 1,
                    keepalive_timeout=KEEP_ALIVE_SECONDS,
                    ssl=context,
                    resolver=self.egress.resolver(),
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                skip_auto_headers=("User-Agent",),
            ),
        )

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._transport is not None:
            for transport in (self._transport, *self._former):
                await transport.aclose()
            self._transport = None

    async def request(self, request: Request) -> Answer:
        """Send one request and read its whole answer, within the tenant's `timeout` from when its turn comes, and by its own
        deadline: a worker that was held up (a stopped process, a full queue) never sends under a lease that somebody else has
        taken.

        :raises NoAnswer: no whole answer came.
        :raises TargetError: its URL is not at an allowed origin; nothing was sent.
        """
        self.egress.check(request.url)
        if self.pace and not request.had_turn and not await self.pace.turn(request.kind, request.entries):
            raise NoAnswer(STOPPED, sent=False)
        async with self._slots:
            by = request.deadline
            seconds = self.timeout_s if by is None else min(self.timeout_s, by - time.monotonic())
            if seconds <= 0:
                raise NoAnswer("too_late", sent=False)
            if self.pace and self.pace.held_s:
                raise NoAnswer(HELD, sent=False)
            self.requests += 1
            try:
                async with asyncio.timeout(seconds):
                    answer = await self._exchange(request)
            except TimeoutError:
                raise NoAnswer("timeout", sent=True) from None
            except (httpx.HTTPError, aiohttp.ClientError, OSError) as error:
                raise self._no_answer(error) from None
        if self.pace and answer.status in (429, 503):
            # What the target says to one request, a search or a token's included, counts for all.
            self.pace.hold(answer.retry_after(datetime.now(UTC)) or 0.0)
        return answer

    async def _exchange(self, request: Request) -> Answer:
        if self._transport is None:
            raise RuntimeError("Http is used outside its block")
        ready = httpx.Request(
            request.method,
            request.url,
            headers={"Accept-Encoding": "identity", "User-Agent": "fhir-writeback", **request.headers},
            content=request.body,
            extensions={"timeout": {"connect": CONNECT_SECONDS}},
        )
        response = await self._transport.handle_async_request(ready)
        try:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > self._max_bytes:
                    raise NoAnswer("too_large", sent=True)
        finally:
            await response.aclose()
        kept = {name: response.headers[name] for name in self._kept if name in response.headers}
        return Answer(response.status_code, kept, bytes(body))

    def _no_answer(self, error: Exception) -> Exception:
        cause = error.__cause__ if isinstance(error, httpx.HTTPError) and error.__cause__ else error
        if isinstance(cause, aiohttp.ClientConnectorError):
            if isinstance(cause.os_error, NotGlobal):
                return TargetError(
                    "egress_refused",
                    "the EHR's name resolves to an address that is not public",
                    where=self.egress.base_url,
                    fix="fix the name, or mark a test system with `sandbox: true`",
                )
            tls = isinstance(cause, (aiohttp.ClientConnectorSSLError, aiohttp.ClientConnectorCertificateError))
            return NoAnswer("tls_failed" if tls else "unreachable", sent=False)
        if isinstance(cause, aiohttp.ConnectionTimeoutError):
            return NoAnswer("unreachable", sent=False)
        return NoAnswer("connection_lost", sent=True)
