"""Where requests may go, how long and how much they may take, and whether one without an answer may have been sent."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from fhir_writeback_dagster.commit.http.egress import Egress
from fhir_writeback_dagster.commit.http.request import Request
from fhir_writeback_dagster.commit.http.transport import Http, NoAnswer
from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.errors import TargetError


@contextmanager
def _server(behave: Callable[[socket.socket], object]) -> Iterator[str]:
    """A server that does with each connection what ``behave`` says."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    behave(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/fhir"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _answering(text: bytes) -> Callable[[socket.socket], object]:
    def behave(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(text)

    return behave


def _post(base: str, *, timeout_s: float = 5, max_bytes: int = 1000, deadline: float | None = None) -> Answer:
    async def work() -> Answer:
        egress = Egress(base, sandbox=True, where="test")
        async with Http(egress, concurrency=1, timeout_s=timeout_s, max_bytes=max_bytes) as http:
            return await http.request(Request("POST", f"{base}/Observation", body=b"{}", deadline=deadline))

    return asyncio.run(work())


def _no_answer(base: str, **limits: float) -> tuple[str, bool]:
    with pytest.raises(NoAnswer) as raised:
        _post(base, **limits)  # type: ignore[arg-type]
    return raised.value.code, raised.value.sent


def test_a_refused_connection_was_not_sent() -> None:
    assert _no_answer("http://127.0.0.1:9/fhir") == ("unreachable", False)


def test_a_name_that_does_not_resolve_was_not_sent() -> None:
    assert _no_answer("http://no-such-host.invalid/fhir") == ("unreachable", False)


def test_a_server_that_closes_after_reading_may_have_acted() -> None:
    with _server(lambda connection: connection.recv(65536) and None) as base:
        assert _no_answer(base) == ("connection_lost", True)


def test_a_server_that_resets_in_its_answer_may_have_acted() -> None:
    with _server(_answering(b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{")) as base:
        assert _no_answer(base) == ("connection_lost", True)


def test_what_is_not_http_may_have_acted() -> None:
    with _server(_answering(b"SSH-2.0-OpenSSH\r\n\r\n")) as base:
        assert _no_answer(base) == ("connection_lost", True)


def test_silence_ends_after_the_timeout_and_may_have_acted() -> None:
    quiet = threading.Event()
    with _server(lambda _: quiet.wait(10) and None) as base:
        began = time.monotonic()
        try:
            assert _no_answer(base, timeout_s=0.3) == ("timeout", True)
        finally:
            quiet.set()
        assert time.monotonic() - began < 5


def test_a_slow_drip_ends_after_the_timeout() -> None:
    def drip(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(100):
            connection.sendall(b" ")
            time.sleep(0.05)

    with _server(drip) as base:
        assert _no_answer(base, timeout_s=0.4) == ("timeout", True)


def test_too_much_is_cut_off() -> None:
    with _server(_answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000)) as base:
        assert _no_answer(base, max_bytes=1000) == ("too_large", True)


def test_after_its_deadline_nothing_is_sent_at_all() -> None:
    came = []
    with _server(lambda _: came.append(1)) as base:
        assert _no_answer(base, deadline=time.monotonic() - 0.01) == ("too_late", False)
    assert came == []


def test_redirects_are_not_followed() -> None:
    came = []
    with (
        _server(lambda _: came.append(1)) as elsewhere,
        _server(_answering(f"HTTP/1.1 307 x\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n".encode())) as base,
    ):
        assert _post(base).status == 307
    assert came == []


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with _server(_answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as base:
        assert _post(base).status == 200


def test_cookies_are_not_kept() -> None:
    seen: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        seen.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async def twice(base: str) -> None:
        async with Http(Egress(base, sandbox=True, where="test"), concurrency=1, timeout_s=5) as http:
            for _ in range(2):
                await http.request(Request("GET", base))

    with _server(behave) as base:
        asyncio.run(twice(base))
    assert len(seen) == 2
    assert b"cookie" not in seen[1].lower()


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://ehr.example/fhir", "https://ehr.example.evil.com/fhir/x"),
        ("https://ehr.example/fhir", "http://ehr.example/fhir/x"),
        ("https://ehr.example/fhir", "https://ehr.example:8443/fhir/x"),
        ("https://ehr.example/fhir", "https://user@ehr.example/fhir/x"),
        ("https://ehr.example/fhir", "ftp://ehr.example/fhir/x"),
        ("https://ehr.example/fhir", "//ehr.example/fhir"),
        ("https://ehr.example/fhir", "https://ehr.example:port/fhir"),
    ],
)
def test_only_the_exact_origin_is_allowed(base: str, url: str) -> None:
    egress = Egress(base, sandbox=False, where="tenants/t.yaml ehr.base_url")
    with pytest.raises(TargetError) as raised:
        egress.check(url)
    assert raised.value.code == "egress_refused"
    assert raised.value.where == "tenants/t.yaml ehr.base_url"


def test_the_same_origin_is_allowed_however_it_is_written() -> None:
    egress = Egress("https://EHR.example/fhir", sandbox=False, where="")
    egress.check("https://ehr.example:443/fhir/Patient")


@pytest.mark.parametrize(
    "base",
    ["http://ehr.example/fhir", "https://127.0.0.1/fhir", "https://10.1.2.3/fhir", "https://[::1]/fhir",
     "https://169.254.169.254/latest", "https://[::ffff:10.0.0.1]/fhir", "https://0.0.0.0/fhir"],
)  # fmt: skip
def test_a_production_tenant_goes_neither_by_http_nor_to_a_private_address(base: str) -> None:
    with pytest.raises(TargetError):
        Egress(base, sandbox=False, where="")
    Egress(base, sandbox=True, where="")


def test_a_production_name_that_resolves_to_a_private_address_is_refused() -> None:
    async def work() -> None:
        egress = Egress("https://localhost/fhir", sandbox=False, where="")
        async with Http(egress, concurrency=1, timeout_s=5) as http:
            await http.request(Request("GET", "https://localhost/fhir/metadata"))

    with pytest.raises(TargetError) as raised:
        asyncio.run(work())
    assert raised.value.code == "egress_refused"


@pytest.mark.parametrize(
    ("url", "within"),
    [
        ("https://ehr.example/fhir/Patient?page=2", True),
        ("https://ehr.example/fhir?_getpages=1", True),
        ("https://ehr.example/fhirx/Patient", False),
        ("https://ehr.example/fhir/../admin", False),
        ("https://other.example/fhir/Patient", False),
    ],
)
def test_page_links_stay_below_the_base(url: str, within: bool) -> None:
    assert Egress("https://ehr.example/fhir", sandbox=False, where="").within_base(url) is within
