"""Two workers at once, one that is killed, one that comes back late: never a second resource, never a lost one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from commit.faults import FaultyLine, Wait
from commit.world import World, heart_rate, patient
from support import Database

from fhir_writeback_dagster.commit.engine.recording import record
from fhir_writeback_dagster.commit.ledger import intents
from fhir_writeback_dagster.commit.protocol.changes import Passed, Review, Stop, at_gate
from fhir_writeback_dagster.commit.protocol.model import Attempt
from fhir_writeback_dagster.commit.protocol.transitions import State
from fhir_writeback_dagster.config.settings import DSN
from fhir_writeback_dagster.ids import new_id

AT = "2024-03-01T10:00:00Z"
WORKER = Path(__file__).with_name("worker.py")

Start = Callable[[World], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(database: Database, home: Path) -> Iterator[Start]:
    """Starts a worker process for a world; whatever still runs is killed at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(world: World) -> subprocess.Popen[bytes]:
        environment = {"PATH": os.environ["PATH"], DSN: database.dsn("commit")}
        command = [sys.executable, str(WORKER), str(home), world.run.id]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def _until(true: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


@contextmanager
def _transaction(world: World) -> Iterator[Any]:
    with world.run.store.tenant(world.run.id) as connection:
        yield connection


def test_two_workers_at_once_write_everything_once(make_world: Callable[..., World], start: Start) -> None:
    world = make_world(ehr={"concurrency": 4})
    world.load(*(patient(f"p{n}", f"p{n}") for n in range(10)))
    wanted = world.approve_all([heart_rate(f"p{n % 10}", f"2024-03-01T10:{n // 10:02d}:00Z", 60 + n % 9) for n in range(120)])
    workers = [start(world), start(world)]
    counts: Counter[str] = Counter()
    for worker in workers:
        out, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()[-2000:]
        counts.update(json.loads(out))
    assert counts["created"] == 120
    found = Counter(r["identifier"][0]["value"] for r in world.ehr.search("Observation"))
    assert found == Counter(c.business_key for c in wanted)
    assert world.rows("SELECT count(*) FROM ledger.attempt WHERE tenant = %s") == [(120,)]


@pytest.mark.parametrize("bundle_size", [1, 20], ids=["singly", "in a batch"])
@pytest.mark.parametrize("arrives", [True, False], ids=["it arrived", "it never arrived"])
def test_a_worker_killed_between_marker_and_answer_leaves_exactly_one(
    make_world: Callable[..., World], line: FaultyLine, start: Start, arrives: bool, bundle_size: int
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "bundle_size": bundle_size})
    world.load(patient("a", "a"))
    wanted = world.approve_all([heart_rate("a", f"2024-03-01T10:0{n}:00Z", 70 + n) for n in range(3)])
    dead = threading.Event()
    path = "Observation" if bundle_size == 1 else ""
    line.on("POST", path, Wait(dead, forward=arrives))
    worker = start(world)
    _until(lambda: any(s.method == "POST" and s.path == path for s in line.seen))
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    dead.set()
    line.rules.clear()
    in_doubt = 1 if bundle_size == 1 else 3
    states: dict[str, int] = dict(world.rows("SELECT state, count(*) FROM ledger.work WHERE tenant = %s GROUP BY 1"))
    assert states["sending"] == in_doubt

    world.change("UPDATE ledger.work SET lease_until = now() WHERE tenant = %s")
    report = world.commit()
    assert report.counts["reaped"] == 3
    assert report.counts.get("reconciled", 0) == (in_doubt if arrives else 0)
    found = [r["identifier"][0]["value"] for r in world.ehr.search("Observation")]
    assert sorted(found) == sorted(c.business_key for c in wanted)
    assert {row[0] for row in world.intents()} == {"committed"}


def test_what_a_dead_worker_had_not_sent_is_free_at_once(
    make_world: Callable[..., World], line: FaultyLine, start: Start
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "concurrency": 1})
    world.load(*(patient(f"p{n}", f"p{n}") for n in range(6)))
    world.approve_all([heart_rate(f"p{n}", AT, 70) for n in range(6)])
    dead = threading.Event()
    line.on("POST", "Observation", Wait(dead, forward=False))
    worker = start(world)
    _until(lambda: line.sent("POST", "Observation"))
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    dead.set()
    states: dict[str, int] = dict(world.rows("SELECT state, count(*) FROM ledger.work WHERE tenant = %s GROUP BY 1"))
    in_doubt = states["sending"]
    report = world.commit()
    assert report.counts["reaped"] == report.counts["created"] == 6 - in_doubt > 0
    assert report.waiting == {"sending": in_doubt}, "what it may have sent keeps its lease"


def test_sigterm_finishes_what_is_in_flight_and_gives_back_the_rest(
    make_world: Callable[..., World], line: FaultyLine, start: Start
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "concurrency": 1})
    world.load(patient("a", "a"), patient("b", "b"))
    world.approve_all([heart_rate(who, f"2024-03-01T10:0{n}:00Z", 70) for n in range(3) for who in "ab"])
    held = threading.Event()
    line.on("POST", "Observation", Wait(held))
    worker = start(world)
    _until(lambda: line.sent("POST", "Observation"))
    worker.send_signal(signal.SIGTERM)
    held.set()
    worker.communicate(timeout=60)
    assert worker.returncode == -signal.SIGTERM
    states = Counter(row[0] for row in world.intents())
    assert states["sending"] == states["leased"] == states["unknown"] == 0
    assert states["committed"] == len(world.ehr.search("Observation")) >= 1
    assert states["ready"] == 6 - states["committed"]


def test_a_stale_fence_writes_nothing(world: World) -> None:
    world.load(patient("a", "a"))
    world.refresh()
    world.approve(heart_rate("a", AT, 72))
    with _transaction(world) as connection:
        intents.accept(connection, world.run, 10)
        (late,) = intents.claim(connection, world.run, worker="late", items=10, lease_s=0)
    with _transaction(world) as connection:
        assert intents.reap(connection, world.run) == {State.READY: 1}
        (now,) = intents.claim(connection, world.run, worker="now", items=10, lease_s=60)
    attempt = Attempt(new_id(), "create", "if_none_exist", "request")
    for result in (Passed(attempt), Review("x"), Stop(None)):
        step = at_gate(late, result)
        assert step is not None
        with _transaction(world) as connection:
            assert record(connection, world.run, [step], 60) == []
    assert world.rows("SELECT state, worker FROM ledger.work WHERE tenant = %s") == [("leased", "now")]
    assert world.owner_rows("SELECT count(*) FROM ledger.attempt WHERE tenant = %s") == [(0,)]
    assert world.owner_rows("SELECT count(*) FROM review.task WHERE tenant = %s") == [(0,)]
    assert world.events(now.intent_id) == ["intent.ready", "intent.leased", "intent.ready", "intent.leased"]


def test_a_marker_needs_a_live_lease(world: World) -> None:
    world.load(patient("a", "a"))
    world.approve(heart_rate("a", AT, 72))
    with _transaction(world) as connection:
        intents.accept(connection, world.run, 10)
        (item,) = intents.claim(connection, world.run, worker="slow", items=10, lease_s=0)
    step = at_gate(item, Passed(Attempt(new_id(), "create", "if_none_exist", "request")))
    assert step is not None
    with _transaction(world) as connection:
        assert record(connection, world.run, [step], 60) == []


def test_patients_are_claimed_whole_and_never_by_two(world: World) -> None:
    world.load(patient("a", "a"), patient("b", "b"))
    world.approve_all([heart_rate("a", f"2024-03-01T10:0{n}:00Z", 70) for n in range(3)])
    with _transaction(world) as connection:
        intents.accept(connection, world.run, 10)
        (first,) = intents.claim(connection, world.run, worker="one", items=1, lease_s=60)
    world.approve(heart_rate("b", AT, 70))
    with _transaction(world) as connection:
        intents.accept(connection, world.run, 10)
        claimed = intents.claim(connection, world.run, worker="two", items=10, lease_s=60)
    assert first.patient_id == "a"
    assert [item.patient_id for item in claimed] == ["b"]


def test_every_step_is_in_the_audit_log(world: World) -> None:
    world.load(patient("a", "a"))
    world.approve(heart_rate("a", AT, 72))
    world.commit()
    ((intent,),) = world.rows("SELECT intent_id FROM ledger.intent WHERE tenant = %s")
    assert world.events(intent) == ["intent.ready", "intent.leased", "intent.sending", "intent.committed"]
    ((detail,),) = world.owner_rows(
        "SELECT detail FROM audit.event WHERE tenant = %s AND type = 'intent.committed' AND layer = 'commit'"
    )
    assert (detail["outcome"], detail["status"], detail["fence"]) == ("created", 201, 1)
    assert "72" not in str({k: v for k, v in detail.items() if k not in ("attempt", "content", "resource")})
