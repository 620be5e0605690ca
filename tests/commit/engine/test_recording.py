"""Every change that the engine can make is one that the ledger takes; one that it does not take stops no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args

import pytest
from commit.world import World, heart_rate, patient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fhir_writeback_dagster.commit.engine.gate import SendGate
from fhir_writeback_dagster.commit.engine.recheck import Recheck
from fhir_writeback_dagster.commit.engine.recording import record
from fhir_writeback_dagster.commit.ledger import intents as ledger
from fhir_writeback_dagster.commit.ledger.async_database import AsyncDatabase
from fhir_writeback_dagster.commit.protocol import changes as c
from fhir_writeback_dagster.commit.protocol.model import Attempt, Intent, Standing
from fhir_writeback_dagster.commit.protocol.transitions import TABLE, IntentState, State, step
from fhir_writeback_dagster.ids import new_id

AT = "2024-03-01T10:00:00Z"
MAKERS: dict[State, tuple[Any, Any]] = {
    State.LEASED: (c.at_gate, c.AtGate),
    State.SENDING: (c.after_answer, c.AfterAnswer),
    State.RECONCILING: (c.after_look, c.AfterLook),
}
EVERY = [(state, result) for state, (_, union) in MAKERS.items() for result in get_args(union)]

codes = st.from_regex(r"[a-z][a-z_]{0,40}", fullmatch=True)
waits = st.floats(min_value=0, max_value=3600)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
evidences = st.dictionaries(codes, st.one_of(codes, st.lists(texts, max_size=3), st.integers(0, 9)), max_size=3)
standings = st.builds(
    Standing,
    st.fixed_dictionaries(
        {"resourceType": st.just("Observation"), "id": st.from_regex(r"[A-Za-z0-9.-]{1,64}", fullmatch=True)},
        optional={"meta": st.fixed_dictionaries({"versionId": texts}), "note": texts},
    ),
    st.none() | texts,
    st.sampled_from(["ours", "foreign"]),
)
attempts = st.builds(
    Attempt,
    st.builds(new_id),
    st.sampled_from(["create", "update"]),
    codes,
    st.uuids().map(str),
    st.none() | st.integers(100, 599),
    st.none() | codes,
    st.binary(max_size=20),
    st.none() | st.from_regex(r"[A-Za-z0-9._:/+=-]{1,128}", fullmatch=True),
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "attempt": attempts,
    "outcome": st.sampled_from(get_args(c.WriteOutcome)),
    "reason": codes,
    "standing": standings,
    "evidence": evidences,
    "wait_s": waits,
    "undone": st.none() | st.sampled_from(get_args(c.UndoneState)),
    "reads": st.sampled_from(get_args(c.Reads)),
}


def results(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Any result of a kind."""
    optional = (
        {"standing": st.none() | standings} if kind is c.Refuse else {"reason": st.none() | codes} if kind is c.Stop else {}
    )
    return st.builds(kind, **{name: (FIELDS | optional)[name] for name in (one.name for one in fields(kind))})


def test_each_result_means_something_in_the_state_that_it_is_for() -> None:
    assert all((state, result.event) in TABLE for state, result in EVERY)
    told = {(state, event) for state, event in TABLE if state in MAKERS}
    ours = {(state, result.event) for state, result in EVERY}
    of_the_ledger = {(state, event) for state, event in told if event.name in ("EXPIRE", "CLAIM")}
    assert told - ours == of_the_ledger


@pytest.fixture
def held(world: World) -> Callable[[State], Intent]:
    """``held(state)``: one more intent in that state, in the ledger too."""
    world.load(patient("a", "a"))

    def make(state: State) -> Intent:
        world.change("DELETE FROM ledger.work WHERE tenant = %s")
        world.approve(heart_rate("a", AT, 72))
        with world.run.store.tenant(world.run.id) as connection:
            ledger.accept(connection, world.run, 10)
            (intent,) = ledger.claim(connection, world.run, worker="test", items=1, lease_s=60)
        for table in ("work", "intent"):
            world.change(f"UPDATE ledger.{table} SET state = '{state}' WHERE tenant = %s AND intent_id = %s", intent.intent_id)
        intent.now = IntentState(state, intent.now.fence)
        return intent

    return make


@pytest.mark.parametrize(("state", "kind"), EVERY, ids=lambda one: getattr(one, "__name__", str(one)))
def test_the_ledger_takes_every_change(world: World, held: Callable[[State], Intent], state: State, kind: type[Any]) -> None:
    maker = MAKERS[state][0]

    @settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(results(kind), attempts)
    def each(result: Any, attempt: Attempt) -> None:
        intent = held(state)
        change = maker(intent, result, attempt) if state is State.SENDING else maker(intent, result)
        assert change is not None
        with world.run.store.tenant(world.run.id) as connection:
            assert record(connection, world.run, [change], 60) == [change]
        found = world.rows("SELECT state, outcome FROM ledger.intent WHERE tenant = %s AND intent_id = %s", intent.intent_id)
        assert found == [(step(intent.now, kind.event, intent.now.fence)[0].state, change.outcome)]

    each()


def standing(resource_id: str) -> Standing:
    return Standing({"resourceType": "Observation", "id": resource_id}, None)


SPOILT: dict[str, Callable[[Intent], c.Change | None]] = {
    "a NUL among the elements": lambda i: c.at_gate(i, c.Review("clinician_edited", {"elements": ["a\x00b"]})),
    "a NUL in an id": lambda i: c.at_gate(
        i, c.Settled("suppressed", "existed", Standing({"resourceType": "X", "id": "\x00"}, None))
    ),
    "an outcome of nobody's": lambda i: c.at_gate(i, c.Settled("odd", "x", Standing({"resourceType": "X", "id": "1"}, None))),  # type: ignore[arg-type]
    "a review without a reason": lambda i: c.at_gate(i, c.Review(None)),  # type: ignore[arg-type]
    "a wait without an end": lambda i: c.at_gate(i, c.Retry("x", float("inf"))),
    "a resource without an id": lambda i: c.at_gate(i, c.Settled("suppressed", "x", Standing({"resourceType": "X"}, None))),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_change_that_cannot_be_recorded_goes_to_a_person_and_the_others_are_written(world: World, what: str) -> None:
    ids = [f"p{n}" for n in range(9)]
    world.load(*(patient(one, one) for one in ids))
    world.approve_all([heart_rate(one, AT, 72) for one in ids])
    with world.run.store.tenant(world.run.id) as connection:
        ledger.accept(connection, world.run, 100)
        held = ledger.claim(connection, world.run, worker="test", items=100, lease_s=60)
    bad = held[4]

    async def write() -> list[list[c.Change]]:
        async with AsyncDatabase(world.run) as db:
            gate = SendGate(world.run, db, Recheck(world.run), 60)
            good = [c.at_gate(intent, c.Retry("busy", 1)) for intent in held]
            spoilt = SPOILT[what](bad)
            return list(await asyncio.gather(gate.write(good[:4]), gate.write([spoilt, *good[5:7]]), gate.write(good[7:])))

    made = asyncio.run(write())
    assert [len(some) for some in made] == [4, 3, 2]
    assert dict(world.rows("SELECT state, count(*) FROM ledger.intent WHERE tenant = %s GROUP BY 1")) == {
        "retry_wait": 8,
        "in_review": 1,
    }
    ((task, reason, evidence),) = world.rows("SELECT intent_id, reason, evidence FROM review.task WHERE tenant = %s")
    assert (task, reason) == (bad.intent_id, "defect")
    assert set(evidence) == {"error", "place"}
