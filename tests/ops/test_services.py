"""The services as processes: who holds what, what is refused, what comes again, and that nothing is left."""

from __future__ import annotations

import base64
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from support import eventually, make_home, write_tenant

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops import probe
from fhir_writeback_dagster.ops.configuration import ANY_PORT, LOCATIONS, load_configuration
from fhir_writeback_dagster.ops.ports import HOST, answers
from fhir_writeback_dagster.ops.postgres import forget
from fhir_writeback_dagster.ops.process import lives
from fhir_writeback_dagster.ops.running import Running, running
from fhir_writeback_dagster.ops.sockets import socket_of

KEY = base64.b64encode(bytes(32)).decode()
SECRETS = {"MERCY_SEALING": KEY, "MERCY_IDENTITY": KEY, "MERCY_EHR": '{"kty": "EC"}'}
FREE_PORTS = {f"FHIR_WRITEBACK_PORT_{name.upper()}": "0" for name in ANY_PORT}
CLI = str(Path(sys.executable).with_name("fhir-writeback"))


def _home(folder: Path) -> Path:
    home = make_home(folder)
    write_tenant(
        home,
        "mercy",
        {
            "keys": {"sealing": "env:MERCY_SEALING", "identity": ["env:MERCY_IDENTITY"]},
            "ehr": {"auth": {"type": "smart_backend", "client_id": "c", "private_key": "env:MERCY_EHR", "scopes": ["x"]}},
        },
    )
    return home


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory, told: list[str]) -> Iterator[Running]:
    home = _home(tmp_path_factory.mktemp("services"))
    with running(load_configuration(home, SECRETS, ANY_PORT), told.append, dagster=False, durable=False) as up:
        yield up
    forget(home)


def test_no_process_holds_a_secret_that_is_not_its_layers(everything: Running) -> None:
    holders: dict[str, set[str]] = {name: set() for name in SECRETS}
    logins: dict[str, set[str]] = {}
    for name, pid in everything.services.pids.items():
        text = "\n".join(f"{k}={v}" for k, v in psutil.Process(pid).environ().items())
        logins[name] = set(re.findall(r"//(\w+):", text))
        for secret in SECRETS:
            if f"{secret}=" in text:
                holders[secret].add(name)
    three = {f"the {layer} location" for layer in ("ingest", "decide", "commit")}
    assert holders == {"MERCY_SEALING": three, "MERCY_IDENTITY": three, "MERCY_EHR": {"the commit location"}}
    assert logins == {f"the {layer} location": {f"fw_{layer}_login", "dagster"} for layer in LOCATIONS}


def test_a_location_that_is_killed_is_told_of_and_comes_again_on_its_socket(everything: Running, told: list[str]) -> None:
    place = socket_of(everything.state.home, "audit")
    first = everything.services.pids["the audit location"]
    os.kill(first, signal.SIGKILL)

    def back() -> bool:
        everything.tend()
        return everything.services.pids.get("the audit location", first) != first and probe.code_location(place)

    eventually(back, "it answers again", timeout_s=120)
    assert [line for line in told if "the audit location ended with code -9" in line and "started again in 1 s" in line]


def test_a_taken_port_is_refused_by_name_before_anything_starts(tmp_path: Path) -> None:
    home = _home(tmp_path)
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        config = load_configuration(home, SECRETS, {**ANY_PORT, "web": port})
        with (
            pytest.raises(ServiceError, match=f"port {port} for Dagster's page is in use.*FHIR_WRITEBACK_PORT_WEB"),
            running(config, lambda _: None, durable=False),
        ):
            pass
    forget(home)


def _up(home: Path, shell: str = "") -> tuple[subprocess.Popen[str], Path]:
    """`fhir-writeback up` on free ports, by way of a shell where ``shell`` is a script with the command at %s."""
    heard = home / "stderr"
    command = ["/bin/sh", "-c", shell % f"{shlex.quote(CLI)} up"] if shell else [CLI, "up"]
    with heard.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=home, env=os.environ | SECRETS | FREE_PORTS, stderr=stream, stdout=subprocess.PIPE, text=True
        )
    return process, heard


def _is_up(heard: Path) -> bool:
    text = heard.read_text()
    assert "error" not in text, text
    return "up; Ctrl-C ends it" in text


def _family(pid: int) -> tuple[list[psutil.Process], set[int]]:
    """All that it started, and where they listen."""
    processes = psutil.Process(pid).children(recursive=True)
    ports = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # a session of the database, or a run, that just ended
            ports |= {c.laddr.port for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return processes, ports


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["ctrl_c", "sigterm_in_background", "kill_9"])
def test_however_up_ends_no_process_and_no_listener_is_left(tmp_path: Path, how: str) -> None:
    if how == "kill_9" and sys.platform != "linux":
        pytest.skip("the death signal is Linux's")
    home = _home(tmp_path)
    # A script's `cmd &` has SIGINT ignored, and what it starts inherits that: the case that leaves servers behind.
    process, heard = _up(home, "%s & echo $!; wait" if how == "sigterm_in_background" else "")
    try:
        assert process.stdout
        pid = int(process.stdout.readline()) if how == "sigterm_in_background" else process.pid
        eventually(lambda: _is_up(heard), "it is up", timeout_s=300)
        family, ports = _family(pid)
        assert len(ports) == 2  # PostgreSQL and the webserver: code locations have no port
        number = {"ctrl_c": signal.SIGINT, "sigterm_in_background": signal.SIGTERM, "kill_9": signal.SIGKILL}[how]
        for _ in range(2):  # `make` and `timeout` both pass a signal on
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        process.wait(120)
        eventually(lambda: not any(map(lives, family)), "every process ended", timeout_s=60)
        assert not [port for port in ports if answers(port)]
        if how == "ctrl_c":
            assert process.returncode == 0
        if how == "kill_9":  # and nothing stands in the way of the next start
            status = subprocess.run([CLI, "status"], cwd=home, capture_output=True, text=True, timeout=120, check=False)
            assert (status.returncode, status.stdout.split()[:1]) == (0, ["tenant"]), status.stderr
    finally:
        if process.poll() is None:
            for survivor in psutil.Process(process.pid).children():
                survivor.kill()
            process.kill()
        process.communicate()
        forget(home)
