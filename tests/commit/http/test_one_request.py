"""One call, at most one request on the wire: also on a kept connection that the server is just closing, or answers by half."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from commit.faults import Fault, FaultyLine, First, LoseAnswer, Seen
from commit.world import World, heart_rate, patient

from fhir_writeback_dagster.commit.http.egress import Egress
from fhir_writeback_dagster.commit.http.request import Request
from fhir_writeback_dagster.commit.http.transport import Http, NoAnswer
from fhir_writeback_dagster.commit.protocol.answer import Answer

AT = "2024-03-01T10:00:00Z"
METHODS = ("POST", "PUT", "PATCH", "GET")
GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

Behave = Callable[[socket.socket, str], bool]
"""What is done with a request of this path, which has been read whole; True: the connection is kept."""


class Raw:
    """A server that counts what arrives, and does with it what it is told."""

    def __init__(self, behave: Behave) -> None:
        self._behave = behave
        self.seen: Counter[str] = Counter()
        """Method and path of each request that arrived whole, on any connection."""
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{self._listener.getsockname()[1]}/fhir"

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            stream = connection.makefile("rb")
            while line := stream.readline():
                method, path, _ = line.decode().split(" ")
                length = 0
                while (header := stream.readline().strip().lower()) != b"":
                    length = int(header.split(b":")[1]) if header.startswith(b"content-length:") else length
                stream.read(length)
                self.seen[f"{method} {path}"] += 1
                if not self._behave(connection, path):
                    return


@contextmanager
def _raw(behave: Behave) -> Iterator[Raw]:
    server = Raw(behave)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


def _closes(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def _resets(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _half_a_status(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 2")


def _half_a_header(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")


def _half_a_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")


async def _ask(http: Http, base: str, method: str, path: str) -> Answer | NoAnswer:
    try:
        return await http.request(Request(method, f"{base}/{path}", body=b"" if method == "GET" else b"{}"))
    except NoAnswer as none:
        return none


@pytest.mark.parametrize("breaks", [_closes, _resets, _half_a_status, _half_a_header, _half_a_body])
@pytest.mark.parametrize("method", METHODS)
def test_an_answer_that_breaks_off_on_a_kept_connection_repeats_nothing(
    method: str, breaks: Callable[[socket.socket], None]
) -> None:
    def behave(connection: socket.socket, path: str) -> bool:
        if path.endswith("warm"):
            connection.sendall(GOOD)
            return True
        breaks(connection)
        return False

    async def work(base: str) -> Answer | NoAnswer:
        async with Http(Egress(base, sandbox=True, where="test"), concurrency=1, timeout_s=5) as http:
            assert isinstance(await _ask(http, base, "GET", "warm"), Answer)
            return await _ask(http, base, method, "x")

    with _raw(behave) as server:
        found = asyncio.run(work(server.base))
        assert isinstance(found, NoAnswer)
        assert found.sent
        assert server.seen == {"GET /fhir/warm": 1, f"{method} /fhir/x": 1}
        assert server.connections == 1, "it went out on the kept connection"


@pytest.mark.parametrize("method", METHODS)
def test_a_connection_that_the_server_closes_while_it_is_idle_costs_no_second_request(method: str) -> None:
    def behave(connection: socket.socket, _: str) -> bool:
        connection.sendall(GOOD)
        return False

    async def work(base: str) -> list[Answer | NoAnswer]:
        async with Http(Egress(base, sandbox=True, where="test"), concurrency=1, timeout_s=5) as http:
            return [await _ask(http, base, method, f"{n}") for n in range(40)]

    with _raw(behave) as server:
        answers = asyncio.run(work(server.base))
        # One that was under way when the connection went is lost, not repeated.
        assert all(isinstance(one, Answer) or one.sent for one in answers)
        assert max(server.seen.values()) == 1
        assert any(isinstance(one, Answer) for one in answers)


@pytest.mark.parametrize("method", METHODS)
def test_many_at_once_on_connections_that_go_away_are_each_on_the_wire_once(method: str) -> None:
    turns = Counter[str]()

    def behave(connection: socket.socket, path: str) -> bool:
        turns["all"] += 1
        if turns["all"] % 3 == 0:
            (_closes, _resets, _half_a_body)[turns["all"] // 3 % 3](connection)
            return False
        connection.sendall(GOOD)
        return turns["all"] % 5 != 0

    async def work(base: str) -> list[Answer | NoAnswer]:
        async with Http(Egress(base, sandbox=True, where="test"), concurrency=8, timeout_s=10) as http:
            return await asyncio.gather(*(_ask(http, base, method, f"{n}") for n in range(120)))

    with _raw(behave) as server:
        answers = asyncio.run(work(server.base))
        assert len(answers) == 120
        assert max(server.seen.values()) == 1


def test_a_name_with_several_addresses_gets_the_request_once() -> None:
    def behave(connection: socket.socket, _: str) -> bool:
        time.sleep(0.5)
        _closes(connection)
        return False

    async def work(base: str) -> Answer | NoAnswer:
        base = base.replace("127.0.0.1", "localhost")
        async with Http(Egress(base, sandbox=True, where="test"), concurrency=1, timeout_s=5) as http:
            return await _ask(http, base, "PUT", "x")

    with _raw(behave) as server:
        found = asyncio.run(work(server.base))
        assert isinstance(found, NoAnswer)
        assert server.seen == {"PUT /fhir/x": 1}


def test_a_lost_answer_to_a_put_is_one_request_and_one_attempt_and_overwrites_nobody(faulty: World, line: FaultyLine) -> None:
    """On an EHR that takes no patch and ignores If-Match."""
    faulty.load(patient("a", "a"))
    first = faulty.approve(heart_rate("a", AT, 72))
    faulty.commit()
    faulty.change(
        'UPDATE mirror.capability SET body = regexp_replace(body::text, \'"code": "patch"\', \'"code": "none"\', \'g\')::jsonb '
        "WHERE tenant = %s"
    )
    faulty.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    line.ignores.add("if-match")
    (found,) = faulty.in_ehr(first.business_key)
    theirs = {**found, "valueQuantity": {**found["valueQuantity"], "value": 60}}
    puts: list[Seen] = []

    def somebody_is_faster_than_a_second_one(seen: Seen) -> Fault | None:
        if seen.method != "PUT":
            return None
        puts.append(seen)
        return LoseAnswer() if len(puts) == 1 else First(lambda: faulty.ehr.chart.update(theirs))

    line.rules.append(somebody_is_faster_than_a_second_one)
    faulty.commit()
    assert faulty.intents()[1] == ("committed", "updated", "found")
    assert len(puts) == 1
    assert faulty.rows("SELECT count(*) FROM ledger.attempt WHERE tenant = %s AND verb = 'update'") == [(1,)]
