"""The proxy: a small server with a loop in a thread of its own; nothing is decided here.

What the server behind writes of its own address — ``Location``, links of Bundles, `fullUrl`, its CapabilityStatement — names
the proxy's afterwards. Only its FHIR base is renamed: a token endpoint beside it stays what the server says, because a client
signs its assertion for that very address. A server that is told the proxy's address as its public one
(``Sekmet(…, public_url=…)``) sends token requests through the proxy too, and rules can meet them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from yarl import URL

from fhir_writeback_dagster.ops.ports import HOST, claim
from fhir_writeback_dagster.sandbox.fault_proxy.exchange import Exchange, ProxyAnswer, ProxyRequest, outcome
from fhir_writeback_dagster.sandbox.fault_proxy.faults import FHIR_JSON
from fhir_writeback_dagster.sandbox.fault_proxy.personality import PLAIN, Personality
from fhir_writeback_dagster.sandbox.fault_proxy.script import FaultRule, Script

DRIPS = 10
_BASE = "/fhir"
_LARGEST = 64 * 1024 * 1024
_NOT_PASSED_ON = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "accept-encoding", "keep-alive", "date", "server"}
)
_TEXTUAL = ("json", "xml", "text")


class FaultProxy:
    """``with FaultProxy(upstream) as proxy``: reach the server at ``upstream`` (its FHIR base) by ``proxy.base_url``.

    :param upstream: may be named later, with :meth:`lead_to`, before the first request.
    """

    def __init__(self, upstream: str = "") -> None:
        self.port = claim("the fault proxy", 0, "nothing: any free port will do")
        self.base_url = f"http://{HOST}:{self.port}{_BASE}"
        self._upstream = upstream
        self._script = Script()
        self._personality = PLAIN
        self._window: tuple[float, int] = (0.0, 0)
        self._done: dict[str, ProxyAnswer] = {}
        """What creates under an idempotency key were answered."""
        self.last_fault_at = 0.0
        """On `time.monotonic`'s scale; 0: there was none yet."""
        self.requests: Counter[str] = Counter()
        """By interaction."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.ServerRunner | None = None
        self._site: web.TCPSite | None = None
        self._going_on: set[asyncio.Task[object]] = set()

    def lead_to(self, upstream: str) -> None:
        """Name the FHIR base behind."""
        self._upstream = upstream

    def script(self, rules: Iterable[FaultRule] = (), seed: int = 0, personality: Personality = PLAIN) -> None:
        """From now on this goes wrong. Counts go on; :meth:`forget` begins them anew."""
        self._script = Script(tuple(rules), seed, self._script.counts)
        self._personality = personality

    def forget(self) -> None:
        """As new: no rules, no counts."""
        self._script, self._personality = Script(), PLAIN
        self.last_fault_at = 0.0
        self.requests.clear()
        self._done.clear()

    @property
    def faults(self) -> dict[str, int]:
        """How many requests met each rule; ``rate_limit`` and ``refused`` for those that the personality had too many of, or
        does not take.
        """
        return dict(sorted(self._script.counts.items()))

    def away(self) -> None:
        """Nobody listens any more, and open connections are closed: new ones are refused."""
        self._wait(self._close_site())

    def back(self) -> None:
        self._wait(self._open_site())

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, coroutine: Coroutine[Any, Any, None]) -> None:
        done: Future[None] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        done.result()

    async def _open(self) -> None:
        # Shorter than any server's own keep-alive: a POST on a connection that the server is closing would be a fault of ours.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=1.0),
            timeout=aiohttp.ClientTimeout(total=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        await self._open_site()

    async def _open_site(self) -> None:
        if self._runner is None:
            self._runner = web.ServerRunner(web.Server(self._handle, request_factory=_request), shutdown_timeout=0.1)
            await self._runner.setup()
            self._site = web.TCPSite(self._runner, HOST, self.port)
            await self._site.start()

    async def _close_site(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = self._site = None

    async def _close(self) -> None:
        for task in self._going_on:
            task.cancel()
        await asyncio.gather(*self._going_on, return_exceptions=True)
        await self._close_site()
        if self._session is not None:
            await self._session.close()

    async def _handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        parts = urlsplit(incoming.path_qs)
        below = parts.path == _BASE or parts.path.startswith(f"{_BASE}/")
        path = parts.path.removeprefix(_BASE).lstrip("/") if below else parts.path
        headers = {name.lower(): value for name, value in incoming.headers.items() if name.lower() not in _NOT_PASSED_ON}
        request = ProxyRequest(incoming.method, path, parts.query, headers, await incoming.read())
        self.requests[request.interaction] += 1
        try:
            answer = await self._answer(request)
        except (aiohttp.ClientError, TimeoutError, OSError):
            answer = None  # the server behind is away: so are we
        return await _deliver(incoming, answer)

    async def _answer(self, request: ProxyRequest) -> ProxyAnswer | None:
        if self._too_many():
            self._count("rate_limit")
            wait = {"retry-after": str(max(1, round(self._personality.window_s)))} if self._personality.retry_after else {}
            return ProxyAnswer(429, {"content-type": FHIR_JSON, **wait}, outcome("throttled"))
        fault = self._script.fate(request)
        if fault is None:
            return await self._forward(request)
        self.last_fault_at = time.monotonic()
        return await fault.meet(Exchange(request, self._forward, self._later))

    def _too_many(self) -> bool:
        limit = self._personality.requests
        if limit is None:
            return False
        window = time.time() // self._personality.window_s
        began, count = self._window
        self._window = (window, count + 1 if began == window else 1)
        return self._window[1] > limit

    def _count(self, name: str) -> None:
        self._script.counts[name] += 1
        self.last_fault_at = time.monotonic()

    def _later(self, coroutine: Coroutine[Any, Any, object]) -> None:
        task = self._loop.create_task(coroutine)
        self._going_on.add(task)
        task.add_done_callback(self._is_over)

    def _is_over(self, task: asyncio.Task[object]) -> None:
        self._going_on.discard(task)
        if not task.cancelled():
            task.exception()  # nobody waits for it: a server that is away is no news to the loop either

    async def _forward(self, request: ProxyRequest) -> ProxyAnswer:
        """What the server behind makes of it, with this EHR's personality."""
        who = self._personality
        refused = who.refuses(request)
        if refused is None and (standing := who.looks_at(request)) is not None:
            refused = who.too_late(request, await self._exchange(standing))
        if refused is not None:
            self._count("refused")
            return refused
        key = who.key_of(request)
        if key is not None and (original := self._done.get(key)) is not None:
            return replace(original, status=409)
        answer = who.says(request, await self._exchange(who.hears(request)), self.base_url)
        if key is not None and answer.status < 300:
            self._done[key] = answer
        return answer

    async def _exchange(self, request: ProxyRequest) -> ProxyAnswer:
        assert self._session is not None
        whole = f"{self._upstream}/{request.path}".rstrip("/")
        if request.path.startswith("/"):
            parts = urlsplit(self._upstream)
            whole = f"{parts.scheme}://{parts.netloc}{request.path}"
        # As the client wrote it: `%7C` and `|` are not the same to every server.
        url = URL(f"{whole}?{request.query}" if request.query else whole, encoded=True)
        body = request.body.replace(self.base_url.encode(), self._upstream.encode())
        async with self._session.request(
            request.method, url, headers=request.headers, data=body or None, allow_redirects=False
        ) as response:
            headers = {n.lower(): v for n, v in response.headers.items() if n.lower() not in _NOT_PASSED_ON}
            return self._renamed(ProxyAnswer(response.status, headers, await response.read()))

    def _renamed(self, answer: ProxyAnswer) -> ProxyAnswer:
        """The server's own address becomes the proxy's."""
        headers = {name: value.replace(self._upstream, self.base_url) for name, value in answer.headers.items()}
        textual = any(word in headers.get("content-type", "") for word in _TEXTUAL)
        body = answer.body.replace(self._upstream.encode(), self.base_url.encode()) if textual else answer.body
        return ProxyAnswer(answer.status, headers, body)


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    """aiohttp's own factory, with room for bundles and documents."""
    return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=_LARGEST)


async def _deliver(incoming: web.BaseRequest, answer: ProxyAnswer | None) -> web.StreamResponse:
    """Send it as it is to be sent: whole, in drips, cut off, or not at all."""
    if answer is None:
        if incoming.transport is not None:
            incoming.transport.abort()
        return web.Response()
    if answer.cut is None and not answer.drip_s:
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = len(answer.body)
    with suppress(ConnectionError):  # a client that waits no longer
        await _in_pieces(incoming, response, answer)
    return response


async def _in_pieces(incoming: web.BaseRequest, response: web.StreamResponse, answer: ProxyAnswer) -> None:
    await response.prepare(incoming)
    if answer.cut is not None:
        await response.write(answer.body[: answer.cut])
        if incoming.transport is not None:
            incoming.transport.abort()
        return
    size = max(1, -(-len(answer.body) // DRIPS))
    for start in range(0, len(answer.body), size):
        await asyncio.sleep(answer.drip_s / DRIPS)
        await response.write(answer.body[start : start + size])
