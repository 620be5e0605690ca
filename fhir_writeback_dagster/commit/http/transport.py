"""HTTP to one EHR: guarded, limited in time and size, without redirects, cookies, proxies or repeats.

aiohttp carries the bytes; none of its conveniences is used, because a writer of clinical data must not have them by accident. It
repeats a request of an idempotent method by itself where the connection breaks under it (RFC 9110, 9.2.2, lets it). Then two
PUTs are on the wire where the ledger knows of one, and the second overwrites what somebody wrote in between. :func:`_once` is
what forbids it.

Whether a request without an answer may have been *sent* decides whether it may be sent again: only where no connection was made,
it certainly was not.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import aiohttp

from fhir_writeback_dagster.commit.http.egress import Egress, NotGlobal
from fhir_writeback_dagster.commit.http.request import Request
from fhir_writeback_dagster.commit.http.tls import client_context
from fhir_writeback_dagster.commit.limits.rate_windows import RateLimiter
from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.commit.protocol.headers import readable
from fhir_writeback_dagster.errors import TargetError

MAX_BYTES = 32 * 1024 * 1024
CONNECT_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 2.0
"""Shorter than any server's: a POST on a connection that the server is just closing is an unknown write."""

STOPPED, HELD = "stopped", "held"
"""Codes of requests that did not leave: the run was told to end before their turn; the target asked to be left alone after it."""
NO_TURN = frozenset({STOPPED, HELD})

ENCODED, TOO_LARGE = "encoded_answer", "too_large"
"""Codes of answers that came, and that we do not read."""

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
_CHUNK = 1 << 16


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
        self._kept = {name: name for name in (*_KEPT_HEADERS, *(name.lower() for name in kept))}
        self._session: aiohttp.ClientSession | None = None
        self._former: list[aiohttp.ClientSession] = []
        self.requests = 0

    async def __aenter__(self) -> Self:
        self._session = self._over(self._context)
        return self

    def renew(self, context: ssl.SSLContext) -> None:
        """Connections are made with ``context`` from now on; what is in flight ends on those that it has."""
        if self._session is not None:
            self._former.append(self._session)
            self._session = self._over(context)

    def _over(self, context: ssl.SSLContext) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._limit + 1,
                keepalive_timeout=KEEP_ALIVE_SECONDS,
                ssl=context,
                resolver=self.egress.resolver(),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            skip_auto_headers=("Content-Type", "User-Agent"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            middlewares=(_once,),
        )

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            for session in (self._session, *self._former):
                await session.close()
            self._session = None

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
            except (aiohttp.ClientError, OSError) as error:
                raise self._no_answer(error) from None
        if self.pace and answer.status in (429, 503):
            # What the target says to one request, a search or a token's included, counts for all.
            self.pace.hold(answer.retry_after(datetime.now(UTC)) or 0.0)
        return answer

    async def _exchange(self, request: Request) -> Answer:
        if self._session is None:
            raise RuntimeError("Http is used outside its block")
        headers = {"Accept-Encoding": "identity", "User-Agent": "fhir-writeback", **request.headers}
        async with self._session.request(
            request.method, request.url, data=request.body or None, headers=headers, allow_redirects=False
        ) as response:
            # What was packed though nobody asked for it can be a thousand times larger than it looks: it is not unpacked.
            if any(value.strip().lower() not in ("", "identity") for value in response.headers.getall("Content-Encoding", ())):
                raise NoAnswer(ENCODED, sent=True)
            body = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK):
                body += chunk
                if len(body) > self._max_bytes:
                    raise NoAnswer(TOO_LARGE, sent=True)
            return Answer(response.status, readable(response.headers, self._kept), bytes(body))

    def _no_answer(self, error: Exception) -> Exception:
        if isinstance(error, aiohttp.ClientConnectorError):
            if isinstance(error.os_error, NotGlobal):
                return TargetError(
                    "egress_refused",
                    "the EHR's name resolves to an address that is not public",
                    where=self.egress.base_url,
                    fix="fix the name, or mark a test system with `sandbox: true`",
                )
            tls = isinstance(error, (aiohttp.ClientConnectorSSLError, aiohttp.ClientConnectorCertificateError))
            return NoAnswer("tls_failed" if tls else "unreachable", sent=False)
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return NoAnswer("unreachable", sent=False)
        return NoAnswer("connection_lost", sent=True)


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """A broken connection is told to aiohttp as something that it does not know: of what it knows, it sends an idempotent request
    again. Where no connection was made, nothing was sent, and it repeats nothing.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        raise NoAnswer("connection_lost", sent=True) from None
