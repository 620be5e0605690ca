"""What another user of the machine, and a client that is not ours, gets from a code location: nothing."""

from __future__ import annotations

import json
import os
import pwd
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import make_home, write_tenant

from fhir_writeback_dagster.ops.configuration import ANY_PORT, load_configuration
from fhir_writeback_dagster.ops.postgres import forget
from fhir_writeback_dagster.ops.running import Running, running

ATTACK = Path(__file__).with_name("neighbour.py")
SECRET = "the-ehrs-private-key"


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = make_home(tmp_path_factory.mktemp("neighbour"))
    auth = {"type": "client_secret", "client_id": "c", "client_secret": "env:MERCY_EHR"}
    write_tenant(home, "mercy", {"ehr": {"auth": auth}})
    config = load_configuration(home, {"MERCY_EHR": SECRET}, ANY_PORT)
    with running(config, lambda _: None, dagster=False, durable=False) as up:
        yield up
    forget(home)


@pytest.fixture
def their_database() -> Iterator[tuple[int, list[bytes]]]:
    """A server that takes whatever is sent to it; its port, and what came."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(2)
                    try:
                        data = connection.recv(4096)
                        if data[4:8] == b"\x04\xd2\x16/":  # SSLRequest: no, go on in the clear
                            connection.sendall(b"N")
                            data += connection.recv(4096)
                    except OSError:
                        data = b""
                    heard.append(data)

        threading.Thread(target=listen, daemon=True).start()
        yield server.getsockname()[1], heard


def _places(everything: Running, layer: str) -> list[dict[str, Any]]:
    """Wherever the location listens, as the operating system tells it."""
    process = psutil.Process(everything.services.pids[f"the {layer} location"])
    ports = {c.laddr.port for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    sockets = {str(c.laddr) for c in process.net_connections("unix") if c.laddr and not str(c.laddr).startswith("\0")}
    return [{"host": "127.0.0.1", "port": port} for port in ports] + [{"socket": path} for path in sockets if "grpc" in path]


def _attack(place: dict[str, Any], port: int, user: str = "-") -> dict[str, str]:
    command = [sys.executable, str(ATTACK), user, json.dumps(place), str(port), "MERCY_EHR"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
    outcomes: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return outcomes


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("layer", ["commit", "ingest"])
def test_another_user_of_the_machine_does_not_reach_a_code_location(
    everything: Running, their_database: tuple[int, list[bytes]], layer: str
) -> None:
    port, heard = their_database
    places = _places(everything, layer)
    assert places
    for place in places:
        outcomes = _attack(place, port, str(pwd.getpwnam("nobody").pw_uid))
        assert all(told.startswith("failed: DagsterUserCodeUnreachableError") for told in outcomes.values()), outcomes
    assert SECRET.encode() not in b"".join(heard)


def test_every_code_location_listens_on_a_socket_in_a_folder_of_its_owner_alone(everything: Running) -> None:
    for layer in ("ingest", "decide", "commit", "audit"):
        places = _places(everything, layer)
        assert [list(place) for place in places] == [["socket"]]
        folder = Path(places[0]["socket"]).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.name == layer


def test_a_code_location_works_with_no_instance_but_ours_and_reads_no_file_for_a_caller(
    everything: Running, their_database: tuple[int, list[bytes]]
) -> None:
    port, heard = their_database
    for place in _places(everything, "commit"):
        outcomes = _attack(place, port)
        assert outcomes["ping"] == "answered: x" or "x" in outcomes["ping"]
        for call in ("start_run", "sensor", "partition_tags"):
            assert "[foreign_instance]" in outcomes[call], outcomes
        assert "root:" not in outcomes["notebook"]
    assert heard == []
