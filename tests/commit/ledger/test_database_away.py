"""A real PostgreSQL that is stopped and started again under a run: nothing is lost or written twice, and the run goes on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from commit.faults import FaultyLine, First
from commit.world import World, heart_rate, patient
from psycopg import Connection
from support import Database

from fhir_writeback_dagster.commit.ledger.async_database import AsyncDatabase as PatientDatabase
from fhir_writeback_dagster.commit.pipeline import commit
from fhir_writeback_dagster.errors import LaneHeld
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.postgres import Postgres
from fhir_writeback_dagster.ops.provision import provision
from fhir_writeback_dagster.store.db import lane

AWAY_S, LONG_AWAY_S = 2.0, 20.0
"""The second is longer than the leases of the test that uses it; a minute is no other (a run waits for two)."""


class Outage:
    """Stops the server, and starts it again on its port after a while.

    The thread that starts it lives until the end of the test: a child gets its parent's death signal from its thread's end.
    """

    def __init__(self, state: StateFolder, postgres: Postgres) -> None:
        self._state, self.postgres, self.away_s = state, postgres, AWAY_S
        self._back = threading.Thread(target=self._start_again, daemon=True)
        self._started, self._over = threading.Event(), threading.Event()

    def begin(self) -> None:
        self.postgres.stop()
        self._back.start()

    def end(self) -> None:
        assert self._started.wait(30)

    def clean_up(self) -> None:
        self.postgres.destroy()
        self._over.set()

    def _start_again(self) -> None:
        time.sleep(self.away_s)
        self.postgres = Postgres(self._state, port=self.postgres.port, durable=False)
        self._started.set()
        self._over.wait()


@pytest.fixture
def outage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    state = StateFolder(tmp_path_factory.mktemp("a_server_that_stops"))
    made = Outage(state, Postgres(state, durable=False))
    try:
        yield made
    finally:
        made.clean_up()


@pytest.fixture
def database(outage: Outage) -> Database:
    """In place of the session's: every fixture of this module works on a server of its own."""
    return Database(outage.postgres, provision(outage.postgres.superuser, outage.postgres.port, outage._state))


@pytest.mark.parametrize("nth", [1, 7])
def test_a_run_outlasts_a_database_that_is_away(
    make_world: Callable[..., World], line: FaultyLine, outage: Outage, nth: int
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "concurrency": 4, "timeout": "5s"})
    world.load(*(patient(f"p{n}", f"p{n}") for n in range(10)))
    wanted = world.approve_all([heart_rate(f"p{n % 10}", f"2024-03-01T10:0{n // 10}:00Z", 60 + n) for n in range(20)])
    line.on("POST", "Observation", *[None] * (nth - 1), First(outage.begin))
    report = world.commit()
    outage.end()
    assert report.written > 0
    world.change("UPDATE ledger.work SET lease_until = now(), not_before = now() WHERE tenant = %s")
    world.commit()
    assert {state for state, *_ in world.intents()} == {"committed"}
    assert Counter(one["identifier"][0]["value"] for one in world.ehr.search("Observation")) == Counter(
        c.business_key for c in wanted
    )


def test_a_run_goes_on_by_itself_when_the_database_was_away_for_longer_than_its_leases(
    make_world: Callable[..., World], line: FaultyLine, outage: Outage, database: Database
) -> None:
    outage.away_s = LONG_AWAY_S
    world = make_world(ehr={"base_url": line.base_url, "concurrency": 4, "timeout": "2s"})
    world.load(*(patient(f"p{n}", f"p{n}") for n in range(10)))
    wanted = world.approve_all([heart_rate(f"p{n % 10}", f"2024-03-01T10:0{n // 10}:00Z", 60 + n) for n in range(20)])
    line.on("POST", "Observation", None, None, None, First(outage.begin))
    with lane(database.dsn("commit"), "commit", world.run.id, "run-1") as held:
        began = time.monotonic()
        report = commit(replace(world.run, lane=held), deadline_s=LONG_AWAY_S + 60)
        assert time.monotonic() - began > LONG_AWAY_S
    outage.end()
    assert (report.waiting, report.trouble) == ({}, "")
    assert {state for state, *_ in world.intents()} == {"committed"}
    assert Counter(one["identifier"][0]["value"] for one in world.ehr.search("Observation")) == Counter(
        c.business_key for c in wanted
    )


def test_a_run_takes_its_lane_again_when_the_database_is_back(
    make_world: Callable[..., World], line: FaultyLine, outage: Outage, database: Database
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "concurrency": 4, "timeout": "5s"})
    world.load(patient("a", "a"))
    world.approve(heart_rate("a", "2024-03-01T10:00:00Z", 60))
    line.on("POST", "Observation", First(outage.begin))
    with lane(database.dsn("commit"), "commit", world.run.id, "run-1") as held:
        commit(replace(world.run, lane=held))
        outage.end()
        with pytest.raises(LaneHeld, match="run-1"), lane(database.dsn("commit"), "commit", world.run.id, "run-2"):
            pass


def test_a_run_whose_lane_another_one_took_meanwhile_ends(
    make_world: Callable[..., World], outage: Outage, database: Database
) -> None:
    world = make_world()
    did: list[str] = []

    async def work() -> None:
        async with PatientDatabase(replace(world.run, lane=held)) as db:
            await db.run(away)

    def away(connection: Connection[Any]) -> None:
        did.append("work")
        if len(did) == 1:
            outage.begin()
            outage.end()
            others.enter_context(lane(database.dsn("commit"), "commit", world.run.id, "run-2"))
            connection.execute("SELECT 1")

    with ExitStack() as others, lane(database.dsn("commit"), "commit", world.run.id, "run-1") as held:
        with pytest.raises(LaneHeld, match="run-2"):
            asyncio.run(work())
        assert did == ["work"], "nothing more is done in a lane that is another's"
