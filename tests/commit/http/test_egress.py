"""Other spellings of one host are one host; an address inside another one counts; what an answer is packed in is not unpacked."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from commit.faults import FaultyLine, Twist
from commit.world import World, patient

from fhir_writeback_dagster.commit.http.egress import Egress, Origin
from fhir_writeback_dagster.commit.http.request import Request
from fhir_writeback_dagster.commit.http.transport import Http, NoAnswer
from fhir_writeback_dagster.errors import TargetError


@pytest.mark.parametrize(
    "url",
    ["https://ehr.example./fhir", "https://EHR.Example:443/fhir", "https://ehr。example/fhir", "https://ehr．example｡/fhir",
     "https://ｅｈｒ.example/fhir"],
)  # fmt: skip
def test_a_host_is_the_same_however_it_is_spelt(url: str) -> None:
    assert Origin.of(url) == Origin.of("https://ehr.example/fhir")
    with pytest.raises(TargetError):
        Egress(url, sandbox=True, where="", never=frozenset({"ehr.example"}))


@pytest.mark.parametrize(
    "host",
    ["[64:ff9b::a00:1]", "[64:ff9b::808:808]", "[64:ff9b:1::a00:1]", "[2002:a00:1::1]", "[2002:808:808::]", "[::a00:1]",
     "[::808:808]", "[::ffff:10.0.0.1]", "[2001:0:4136:e378:8000:63bf:3fff:fdd2]", "[fec0::1]", "[::]", "0177.0.0.1",
     "2130706433", "127.1", "[fe80::1%25eth0]"],
)  # fmt: skip
def test_a_literal_that_holds_or_hides_another_address_is_not_public(host: str) -> None:
    with pytest.raises(TargetError) as raised:
        Egress(f"https://{host}/fhir", sandbox=False, where="")
    assert raised.value.code == "egress_refused"


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700::1111]"])
def test_a_public_literal_is_public(host: str) -> None:
    Egress(f"https://{host}/fhir", sandbox=False, where="")


@pytest.mark.parametrize(
    ("address", "taken"),
    [
        ("64:ff9b::808:808", True),
        ("64:ff9b::a00:1", False),
        ("64:ff9b:1::808:808", False),
        ("2002:a00:1::1", False),
        ("::808:808", False),
    ],
)
def test_a_name_that_a_network_translates_is_judged_by_the_address_inside(
    address: str, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS64 gives every IPv4 host such an address in a network that has IPv6 only."""
    found = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 443, 0, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    async def work() -> None:
        await Egress("https://ehr.example/fhir", sandbox=False, where="").resolver().resolve("ehr.example", 443, socket.AF_UNSPEC)

    if taken:
        asyncio.run(work())
    else:
        with pytest.raises(OSError, match="not global"):
            asyncio.run(work())


@pytest.mark.parametrize("odd", ["\x00", "\n", "\r", "\t", "\x1f", "\x7f", "\\", "\u2028"])
def test_a_url_with_control_characters_is_not_this_ehrs(odd: str) -> None:
    egress = Egress("https://ehr.example/fhir", sandbox=False, where="")
    url = f"https://ehr.example/fhir{odd}/Patient"
    assert not egress.within_base(url)
    with pytest.raises(TargetError):
        egress.check(url)


@pytest.mark.parametrize("odd", ["\u0000", "\u007f", "\\", "\ud800"])
def test_a_next_link_with_control_characters_ends_the_listing_and_not_the_run(faulty: World, line: FaultyLine, odd: str) -> None:
    faulty.load(patient("a", "a"))

    def linked(status: int, headers: list[tuple[str, str]], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        bundle = json.loads(body)
        bundle["link"] = [{"relation": "next", "url": f"{line.base_url}/Patient?page=2{odd}"}]
        return status, headers, json.dumps(bundle).encode()

    line.rules.append(lambda seen: Twist(linked) if seen.path == "Patient/_search" else None)
    with pytest.raises(TargetError) as raised:
        faulty.refresh()
    assert raised.value.code in ("egress_refused", "odd_answer")


@contextmanager
def _saying(headers: bytes, body: bytes) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    length = str(len(body)).encode()
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n" + headers + b"\r\n\r\n" + body)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/fhir"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.mark.parametrize("encoding", [b"gzip", b"gzip, gzip", b"deflate", b"br", b"zstd", b"GZIP", b"x-gzip", b"identity, gzip"])
def test_what_is_encoded_though_nobody_asked_for_it_is_not_unpacked(encoding: bytes) -> None:
    bomb = gzip.compress(gzip.compress(b"\0" * 10_000_000))

    async def work(base: str) -> None:
        async with Http(Egress(base, sandbox=True, where="test"), concurrency=1, timeout_s=5) as http:
            await http.request(Request("GET", base))

    with _saying(b"Content-Encoding: " + encoding, bomb) as base, pytest.raises(NoAnswer) as raised:
        asyncio.run(work(base))
    assert (raised.value.code, raised.value.sent) == ("encoded_answer", True)


def test_identity_is_no_encoding() -> None:
    async def work(base: str) -> bytes:
        async with Http(Egress(base, sandbox=True, where="test"), concurrency=1, timeout_s=5) as http:
            return (await http.request(Request("GET", base))).body

    with _saying(b"Content-Encoding: identity", b"{}") as base:
        assert asyncio.run(work(base)) == b"{}"
