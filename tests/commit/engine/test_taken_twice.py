"""An intent that a run has in hand twice, under two fences, goes by the newer one only.

That happens when the database goes away under a run: a claim whose COMMIT had no answer is done again, or the server has
forgotten that the worker is at work, and its leases are freed and claimed anew while their first holder still waits.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from commit.faults import FaultyLine, First
from commit.world import World, heart_rate, patient

from fhir_writeback_dagster.commit.engine.gate import SendGate, Want
from fhir_writeback_dagster.commit.engine.recheck import Recheck
from fhir_writeback_dagster.commit.engine.recording import record
from fhir_writeback_dagster.commit.ledger import intents
from fhir_writeback_dagster.commit.ledger.async_database import AsyncDatabase
from fhir_writeback_dagster.commit.protocol.changes import Passed, Review, at_gate
from fhir_writeback_dagster.commit.protocol.model import Attempt, Intent
from fhir_writeback_dagster.commit.protocol.transitions import State
from fhir_writeback_dagster.ids import new_id

AT = "2024-03-01T10:00:00Z"


def taken_twice(world: World) -> tuple[Intent, Intent]:
    """The one intent that is due, as it was claimed first, and as it was claimed after it had been freed."""
    world.load(patient("a", "a"))
    world.refresh()
    world.approve(heart_rate("a", AT, 72))
    with world.run.store.tenant(world.run.id) as connection:
        intents.accept(connection, world.run, 10)
        (former,) = intents.claim(connection, world.run, worker="here", items=10, lease_s=0)
    with world.run.store.tenant(world.run.id) as connection:
        assert intents.reap(connection, world.run) == {State.READY: 1}
        (now,) = intents.claim(connection, world.run, worker="here", items=10, lease_s=60)
    return former, now


def want(intent: Intent, request_id: str) -> Want:
    return Want(intent, Passed(Attempt(new_id(), "create", "if_none_exist", request_id)))


@pytest.mark.parametrize("former_first", [True, False])
def test_only_the_newer_holder_may_send(make_world: Callable[..., World], former_first: bool) -> None:
    world = make_world()
    former, now = taken_twice(world)
    wants = [want(former, "former"), want(now, "now")]

    async def both() -> list[list[State]]:
        async with AsyncDatabase(world.run) as db:
            gate = SendGate(world.run, db, Recheck(world.run), 60)
            jobs = [gate.pass_on([one]) for one in (wants if former_first else reversed(wants))]
            return [[made.after.state for made in changes] for changes in await asyncio.gather(*jobs)]

    allowed = asyncio.run(both())
    assert allowed == ([[], [State.SENDING]] if former_first else [[State.SENDING], []])
    assert former.now.state is State.LEASED
    assert world.rows("SELECT request_id FROM ledger.attempt WHERE tenant = %s") == [("now",)]
    assert world.rows("SELECT sends FROM ledger.work WHERE tenant = %s") == [(1,)]


def test_nothing_is_written_with_a_former_holders_step(make_world: Callable[..., World]) -> None:
    world = make_world()
    former, now = taken_twice(world)
    late, step = at_gate(former, Review("late")), at_gate(now, Review("now"))
    assert late is not None
    assert step is not None
    with world.run.store.tenant(world.run.id) as connection:
        record(connection, world.run, [late, step], 60)
    assert world.rows("SELECT reason FROM review.task WHERE tenant = %s") == [("now",)]
    assert world.events(now.intent_id).count("intent.in_review") == 1


def test_a_run_whose_connection_was_cut_frees_nothing_that_it_has_in_hand(
    make_world: Callable[..., World], line: FaultyLine
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "concurrency": 1, "bundle_size": 1, "timeout": "5s"})
    world.load(*(patient(f"p{n}", f"p{n}") for n in range(20)))
    wanted = world.approve_all([heart_rate(f"p{n}", AT, 60 + n) for n in range(20)])
    done = threading.Event()

    def cut() -> None:
        world.change(
            "SELECT pg_terminate_backend(l.pid) FROM ledger.work w JOIN pg_locks l ON l.locktype = 'advisory' "
            "WHERE w.tenant = %s AND w.state = 'leased' AND l.mode = 'ExclusiveLock'"
        )
        time.sleep(1.2)  # longer than the engine waits before it looks around again
        done.set()

    line.on("POST", "Observation", *[None] * 9, First(cut))
    report = world.commit()
    assert done.is_set()
    assert report.counts.get("reaped", 0) == 0
    assert {state for state, *_ in world.intents()} == {"committed"}
    sent = Counter(one["identifier"][0]["value"] for one in world.ehr.search("Observation"))
    assert sent == Counter(c.business_key for c in wanted)
