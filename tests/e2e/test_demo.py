"""The demo, end to end: real daemon, real sensors, two FHIR servers. What it says of itself is held against the issue."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

ENDS = {"created", "updated", "suppressed", "stale", "not_written", "denied", "quarantined", "in_review", "waiting"}
COMMAND = [sys.executable, "-m", "fhir_writeback_dagster.cli", "demo", "--json"]

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The object that `demo --json` prints: the only thing on stdout."""
    done = subprocess.run(COMMAND, cwd=tmp_path_factory.mktemp("cwd"), capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(params=["mercy", "stvincent"])
def tenant(demo: dict[str, Any], request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = demo["tenants"][request.param]
    return found


def test_all_adds_up(demo: dict[str, Any]) -> None:
    assert demo["ok"] is True
    assert set(demo) == {"ok", "wall_s", "peak_rss_mb", "tenants"}
    assert set(demo["tenants"]) == {"mercy", "stvincent"}
    assert demo["peak_rss_mb"] > 100


def test_every_row_is_in_exactly_one_end(tenant: dict[str, Any]) -> None:
    assert set(tenant["ends"]) == ENDS
    assert tenant["rows"] == sum(tenant["ends"].values()) > 1500
    for end, reasons in tenant["reasons"].items():
        assert sum(reasons.values()) <= tenant["ends"][end]


def test_the_ehr_holds_each_resource_once(tenant: dict[str, Any]) -> None:
    resources = tenant["resources"]
    assert resources["ehr_found"] == resources["created"] > 600
    assert resources["ehr_duplicates"] == 0


def test_a_second_delivery_writes_nothing(tenant: dict[str, Any]) -> None:
    assert tenant["second_delivery_writes"] == 0


def test_corrections_update_and_what_is_old_or_doubtful_does_not(tenant: dict[str, Any]) -> None:
    assert tenant["resources"]["updated"] == tenant["ends"]["updated"] == 2
    assert tenant["ends"]["stale"] == 1
    assert tenant["reasons"]["in_review"]["identity_changed"] == 1
    assert tenant["reasons"]["in_review"]["equal_to_earlier"] == 1


def test_nothing_that_cannot_be_read_one_way_is_guessed(tenant: dict[str, Any]) -> None:
    reasons = tenant["reasons"]["quarantined"]
    assert {"ambiguous_date", "unmapped_code", "no_patient"} <= set(reasons)
    assert reasons["ambiguous_date"] == 15


def test_a_port_in_use_is_refused_with_its_name_and_nothing_is_left(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            COMMAND,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "TMPDIR": str(tmp_path), "FHIR_WRITEBACK_PORT_WEB": str(port)},
        )
    assert done.returncode == 2
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert f"port {port} for Dagster's page is in use" in last
    assert "FHIR_WRITEBACK_PORT_WEB" in last
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("fhir-writeback-demo-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_an_interrupted_demo_leaves_no_process_and_no_listener(number: signal.Signals, tmp_path: Path) -> None:
    """Started as a script's `cmd &` does: with SIGINT ignored, which children would inherit."""
    process = subprocess.Popen(
        COMMAND,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509 - one thread in this test
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "4/7" in line:
                break
        started = list(_descendants(process.pid))
        listening = {c.laddr.port for p in started for c in _listeners(p)}
        assert len(listening) >= 4, "PostgreSQL, two EHRs, the webserver; code locations have no port"
        process.send_signal(number)
        process.stderr.read()
        assert process.wait(60) != 0
    finally:
        if process.poll() is None:
            process.kill()
        if process.stderr is not None:
            process.stderr.close()
        process.wait(30)
    deadline = time.monotonic() + 10
    while (left := [p for p in started if _lives(p)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    assert not listening & {c.laddr.port for c in psutil.net_connections("tcp") if c.laddr and c.status == psutil.CONN_LISTEN}
    assert not list(tmp_path.glob("fhir-writeback-demo-*"))


def _descendants(pid: int) -> Iterator[psutil.Process]:
    yield from psutil.Process(pid).children(recursive=True)


def _listeners(process: psutil.Process) -> list[Any]:
    try:
        return [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return []


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@pytest.mark.timeout(900)
def test_kept_it_says_where_it_is_and_status_beside_it_finds_it(tmp_path: Path) -> None:
    """From another terminal, in a folder that has no tenant: as in a fresh clone."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [*COMMAND, "--keep"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    told = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            told.append(line[10:].rstrip())
            if "staying up" in line:
                break
        text = "\n".join(told)
        assert "WRONG" not in text
        [folder] = re.findall(r"(?m)^folder: (.+)$", text)
        [link] = re.findall(r"(?m)^Dagster: (\S+)", text)
        assert httpx.get(link, trust_env=False).status_code == 200
        commands = [line.strip() for line in told[told.index("try, in another terminal:") + 1 : -1]]
        assert len(commands) == 3
        for command in commands:
            done = subprocess.run(["/bin/sh", "-c", command], cwd="/", capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr
        beside = tmp_path / "clone"
        (beside / "mappings").mkdir(parents=True)
        found = subprocess.run(
            [*COMMAND[:-2], "status"], cwd=beside, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert f"this is the demo that runs in {folder}" in found.stderr
        assert "mercy" in found.stdout
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
