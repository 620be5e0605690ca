"""A small faulty line to a real server: every request is forwarded, unless a rule says what goes wrong with it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Seen:
    """A request as it came; ``path`` is below the FHIR base."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class LoseAnswer:
    """The server acts on it, and nobody hears of it."""


@dataclass(frozen=True)
class LoseRequest:
    """The server never sees it, and nobody hears of that either."""


@dataclass(frozen=True)
class Say:
    """Answered on the way; the server never sees it."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


def refusal(status: int, code: str = "processing", headers: tuple[tuple[str, str], ...] = ()) -> Say:
    """The EHR's own no, with the OperationOutcome that says that it is its own."""
    outcome = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": code}]}
    return Say(status, (("Content-Type", "application/fhir+json"), *headers), json.dumps(outcome).encode())


@dataclass(frozen=True)
class Twist:
    """The server acts on it, and its answer is changed by ``how(status, headers, body)``."""

    how: Callable[[int, list[tuple[str, str]], bytes], tuple[int, list[tuple[str, str]], bytes]]


@dataclass(frozen=True)
class First:
    """``what`` happens before it is forwarded: somebody else is faster."""

    what: Callable[[], Any]


@dataclass(frozen=True)
class Wait:
    """It is held until the event is set, then forwarded, or lost."""

    until: threading.Event
    forward: bool = True


Fault = LoseAnswer | LoseRequest | Say | Twist | First | Wait
Rule = Callable[[Seen], Fault | None]

_HOPS = {"host", "connection", "content-length"}
_KEPT = {"content-type", "date", "etag", "location", "last-modified", "retry-after", "www-authenticate"}


class FaultyLine:
    """``with FaultyLine(server.base_url) as line``: reach the server by ``line.base_url``."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._host, self._port, self._base = parts.hostname or "", parts.port or 80, parts.path
        self.seen: list[Seen] = []
        self.rules: list[Rule] = []
        self.ignores: set[str] = set()
        """Headers, in lower case, that the server never sees: as if it did not heed them."""
        line = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                line._handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}{self._base}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def on(self, method: str, path: str, *faults: Fault | None) -> None:
        """The next requests of ``method`` whose path begins with ``path`` meet ``faults``, one each; None: nothing happens."""
        left = list(faults)

        def rule(seen: Seen) -> Fault | None:
            hit = left and seen.method == method and seen.path.startswith(path) and "_search" not in seen.path
            return left.pop(0) if hit else None

        self.rules.append(rule)

    def always(self, method: str, path: str, fault: Fault) -> None:
        self.rules.append(lambda seen: fault if seen.method == method and seen.path.startswith(path) else None)

    def sent(self, method: str, path: str = "") -> list[Seen]:
        """What came by, searches aside unless they are asked for."""
        return [
            s
            for s in self.seen
            if s.method == method and s.path.startswith(path) and ("_search" in path or "_search" not in s.path)
        ]

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen = Seen(request.command, request.path.removeprefix(self._base).lstrip("/"), headers, body)
        self.seen.append(seen)
        fault = next((found for rule in self.rules if (found := rule(seen)) is not None), None)
        if isinstance(fault, LoseRequest):
            request.close_connection = True
            return
        if isinstance(fault, Say):
            self._answer(request, fault.status, list(fault.headers), fault.body)
            return
        if isinstance(fault, First):
            fault.what()
        if isinstance(fault, Wait):
            fault.until.wait(60)
            if not fault.forward:
                request.close_connection = True
                return
        status, answered, content = self._forward(request, headers, body)
        if isinstance(fault, LoseAnswer):
            request.close_connection = True
            return
        if isinstance(fault, Twist):
            status, answered, content = fault.how(status, answered, content)
        self._answer(request, status, answered, content)

    def _forward(
        self, request: BaseHTTPRequestHandler, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=30)
        try:
            own = {name: value for name, value in headers.items() if name not in _HOPS | self.ignores}
            connection.request(request.command, request.path, body or None, own)
            response = connection.getresponse()
            return response.status, [(n, v) for n, v in response.getheaders() if n.lower() in _KEPT], response.read()
        finally:
            connection.close()

    @staticmethod
    def _answer(request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        with suppress(ConnectionError):
            dated = any(name.lower() == "date" for name, _ in headers)
            (request.send_response_only if dated else request.send_response)(status)
            for name, value in headers:
                request.send_header(name, value)
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)
