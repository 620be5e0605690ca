"""The ledger does what the model says: traces of the explorer, replayed through `commit.ledger` on a real PostgreSQL.

One trace for every way in which the protocol's function was called in the explorations: each event in each state, with each
flag, spoken by the holder of the newest fence or by a late one. After every move the tables have to say what the model says. Time
passes by moving the rows' own times: a quiet period that is over in the model is over in the table.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal, LiteralString, cast
from uuid import UUID

import psycopg
import pytest
from commit.world import World as Tables
from commit.world import heart_rate
from protocol.ehr import ATOMIC, MEDIATED, NOTHING
from protocol.explore import Move, Violation, explore
from protocol.model import Model, Told
from protocol.world import Budget, World, show
from support import Database

from fhir_writeback_dagster.commit.engine.recheck import Recheck
from fhir_writeback_dagster.commit.engine.recording import record
from fhir_writeback_dagster.commit.ledger import intents
from fhir_writeback_dagster.commit.protocol import changes
from fhir_writeback_dagster.commit.protocol.model import Attempt, Intent, Standing
from fhir_writeback_dagster.commit.protocol.transitions import ENDS, TABLE, Event, State
from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.ids import new_id

Trace = list[tuple[Move[World], World]]
Call = tuple[object, ...]
Owner = psycopg.Connection[Any]

_FAULTS = Budget(faults=1, stops=1, expiries=1, losses=1, busy=1, rejections=1, revocations=1, edits=1)
EXPLORED = (
    Model(ATOMIC, bounded=False, budget=_FAULTS, judges_reviews=False, sorts_workers=False),
    Model(ATOMIC, bounded=False, budget=_FAULTS, updates=True, sorts_workers=False),
    Model(NOTHING, bounded=True, budget=_FAULTS._replace(faults=2, edits=0, busy=0), sorts_workers=False),
    Model(MEDIATED, bounded=True, budget=_FAULTS._replace(faults=2, losses=0, expiries=0), sorts_workers=False),
)


def calls(model: Model, before: World, move: Move[World]) -> Iterator[Call]:
    """How the protocol's function is called in ``move``: (state, accepted, event, newest fence?)."""
    if move.tells is None:
        return
    worker, revision, event = cast("Told", move.tells)
    of = range(1, revision) if event is Event.SUPERSEDE and worker < 0 else [revision]
    for one in of:
        life = before.intents[one - 1].life
        newest = worker < 0 or event is Event.CLAIM or before.workers[worker].newest
        yield life.state, life.accepted, event, newest


def traces(model: Model, known: set[Call]) -> list[Trace]:
    """The shortest trace to each call that is not ``known`` yet, without those that a longer one makes idle."""
    found = explore(model)
    ways: list[tuple[set[Call], Trace]] = []
    aims: set[Call] = set()
    for number, before in enumerate(found.states):
        for move in model.moves(before):
            new = set(calls(model, before, move)) - known
            if new and not isinstance(move.to, Violation):
                known |= new
                aims |= new
                way = [*found.trace(number), (move, move.to)]
                met = {call for (_, at), (one, _) in itertools.pairwise(way) for call in calls(model, at, one)}
                ways.append((met, way))
    kept: list[Trace] = []
    for met, way in sorted(ways, key=lambda one: -len(one[1])):
        if met & aims:
            aims -= met
            kept.append(way)
    return kept


class Replay:
    """One fact, in the ledger, as one trace tells of it."""

    def __init__(self, tables: Tables, owner: Owner, number: int, *, updates: bool) -> None:
        self.tables, self.run, self.owner = tables, tables.run, owner
        self.patient, self.key = f"patient-{number}", f"trace-{number}"
        self.intents: list[UUID] = []
        self.fences: list[int] = []
        self.told: list[list[str]] = []
        self.held: dict[int, Intent] = {}
        self.accept(1)
        if updates:
            self.claim(0, 1)
            self.tell(0, 1, Event.SETTLED)
            self.accept(2)

    def accept(self, revision: int) -> None:
        """decide approves a revision: the first time, or again."""
        again = revision <= len(self.intents)
        payload = heart_rate(self.patient, f"2024-03-01T08:00:{revision:02}Z", 60 + revision)
        if again:
            old = "UPDATE decision.candidate SET state = 'denied' WHERE tenant = %s AND business_key = %s AND revision = %s"
            self._by_owner(old, self.key, revision)
        self.tables.approve(payload, key=self.key, revision=revision)
        older = [self._state(n) for n in range(1, revision)]
        with self.run.store.tenant(self.run.id) as connection:
            accepted = intents.accept(connection, self.run, 100)
        assert (accepted.opened, accepted.reopened) == ((0, 1) if again else (1, 0))
        if not again:
            row = self.tables.rows(
                "SELECT intent_id FROM ledger.intent WHERE tenant = %s AND business_key = %s AND revision = %s",
                self.key,
                revision,
            )
            self.intents.append(row[0][0])
            self.fences.append(0)
            self.told.append([])
        self.told[revision - 1].append("intent.ready")
        for n, was in enumerate(older, 1):
            if self._state(n) != was:
                self.told[n - 1].append(f"intent.{self._state(n)}")

    def claim(self, worker: int, revision: int) -> None:
        self._time_passes("not_before")
        with self.run.store.tenant(self.run.id) as connection:
            (item,) = intents.claim(connection, self.run, worker=f"worker {worker}", items=10, lease_s=60)
        assert item.revision == revision
        self.fences[revision - 1] += 1
        assert item.now.fence == self.fences[revision - 1]
        self.held[worker] = item
        self.told[revision - 1].append(f"intent.{item.now.state}")

    def expire(self, revision: int) -> None:
        self._time_passes("lease_until", self.intents[revision - 1])
        with self.run.store.tenant(self.run.id) as connection:
            assert sum(intents.reap(connection, self.run).values()) == 1
        self.fences[revision - 1] += 1
        self.told[revision - 1].append(f"intent.{self._state(revision)}")

    def tell(self, worker: int, revision: int, event: Event) -> None:
        """``worker`` tells what it knows by what it holds, which may be old."""
        item = self.held[worker]
        step = self._step(item, event, revision)
        if step is None:
            return
        with self.run.store.tenant(self.run.id) as connection:
            moved = record(connection, self.run, [step], lease_s=60)
        if moved:
            item.now = step.after
            self.told[revision - 1].append(f"intent.{step.after.state}")

    def _step(self, item: Intent, event: Event, revision: int) -> changes.Change | None:
        resource = {"resourceType": "Observation", "id": self.key, "meta": {"versionId": str(revision)}}
        standing, attempt = Standing(resource, f'W/"{revision}"'), Attempt(new_id(), "create", "if_none_exist", "replayed")
        results = (
            changes.Passed(attempt),
            changes.Settled("created", "replayed", standing),
            changes.Confirmed("created", standing),
            changes.Accepted("replayed", 3600),
            changes.Lost("replayed", 3600),
            changes.Retry("replayed", 3600),
            changes.Absent(3600),
            *(kind("replayed") for kind in (changes.Stop, changes.Review, changes.Refuse, changes.Withdraw, changes.Supersede)),
        )
        result = next(one for one in results if one.event is event)
        if item.now.state is State.SENDING:
            return changes.after_answer(item, cast("changes.AfterAnswer", result), attempt)
        if item.now.state is State.RECONCILING:
            return changes.after_look(item, cast("changes.AfterLook", result))
        return changes.at_gate(item, cast("changes.AtGate", result))

    def follow(self, told: Told) -> None:
        worker, revision, event = told
        if worker < 0:
            self.expire(revision) if event is Event.EXPIRE else self.accept(revision)
        elif event is Event.CLAIM:
            self.claim(worker, revision)
        else:
            self.tell(worker, revision, event)

    def says(self) -> list[Any]:
        """The tables: of each revision the intent, and its place in the queue."""
        return self.tables.rows(
            "SELECT i.state, i.unanswered, i.accepted, i.fence, i.outcome IS NOT NULL, w.state, w.fence, w.worker IS NOT NULL "
            "FROM ledger.intent i LEFT JOIN ledger.work w ON w.tenant = i.tenant AND w.intent_id = i.intent_id "
            "WHERE i.tenant = %s AND i.business_key = %s ORDER BY i.revision",
            self.key,
        )

    def meant(self, world: World) -> list[Any]:
        """What the tables have to say, as the model has it."""
        rows = []
        for intent, fence in zip(world.intents, self.fences, strict=True):
            life = intent.life
            queued = (None, None) if life.state in ENDS else (str(life.state), fence)
            done, held = life.state is State.COMMITTED, life.state in intents.HELD
            rows.append((str(life.state), life.unanswered, life.accepted, fence, done, *queued, held))
        return rows

    def is_told_whole(self) -> None:
        """Each change of a state has its audit event, and nothing else has; the link is that of what was committed last."""
        for intent, told in zip(self.intents, self.told, strict=True):
            assert self.tables.events(intent) == told
        links = self.tables.rows("SELECT revision FROM ledger.link WHERE tenant = %s AND business_key = %s", self.key)
        done = [n for n in range(1, len(self.intents) + 1) if self._state(n) == State.COMMITTED]
        assert links == ([(max(done),)] if done else [])

    def _state(self, revision: int) -> str:
        query = "SELECT state FROM ledger.intent WHERE tenant = %s AND intent_id = %s"
        return str(self.tables.rows(query, self.intents[revision - 1])[0][0])

    def _time_passes(self, column: Literal["not_before", "lease_until"], *intents: UUID) -> None:
        self._by_owner(
            f"UPDATE ledger.work SET {column} = now() - interval '1 second' WHERE tenant = %s AND intent_id = ANY (%s)",
            list(intents or self.intents),
        )

    def _by_owner(self, query: LiteralString, *params: object) -> None:
        self.owner.execute(query, (self.run.id, *params))

    def close(self) -> None:
        self._by_owner("DELETE FROM ledger.work WHERE tenant = %s")


def _story(way: Trace, until: Move[World]) -> str:
    lines = [f"{move.text:<50} {show(world)}" for move, world in way]
    return "\n".join(lines[: next(n for n, (move, _) in enumerate(way) if move is until) + 1])


@pytest.fixture
def tables(make_tenant: Callable[..., Tenant], open_run: Callable[..., Any], database: Database) -> Iterator[Tables]:
    """The ledger of a tenant whose EHR nobody asks."""
    opened = Tables(make_tenant(), open_run, cast("Any", None), database.superuser).open()
    yield opened
    opened.close()


@pytest.fixture
def owner(database: Database) -> Iterator[Owner]:
    """The database's owner, who can let time pass; one connection, because a test lets it pass a thousand times."""
    with psycopg.connect(database.superuser, autocommit=True) as connection:
        yield connection


def test_the_ledger_says_what_the_model_says(tables: Tables, owner: Owner) -> None:
    walked: set[Call] = set()
    number = itertools.count(1)
    for model in EXPLORED:
        for way in traces(model, walked):
            replay = Replay(tables, owner, next(number), updates=model.updates)
            assert replay.says() == replay.meant(way[0][1])
            for move, after in way[1:]:
                if move.tells is None:  # the network's and the EHR's business
                    continue
                replay.follow(cast("Told", move.tells))
                assert replay.says() == replay.meant(after), _story(way, move)
            replay.is_told_whole()
            replay.close()
    edges = {(state, event) for state, _, event, newest in walked if newest and (state, event) in TABLE}
    by_hand = {
        (State.QUARANTINED, Event.RELEASE)
    }  # tests/commit/engine/test_gateways.py: it leads back to decide, as WITHDRAW does
    assert set(TABLE) - edges == by_hand, "no exploration walks these"
    late = {event for *_, event, newest in walked if not newest}
    assert late >= {Event.PASSED, Event.CONFIRM, Event.ABSENT, Event.LOSE}


def test_a_newer_revision_goes_to_the_person_who_has_the_older_one_in_doubt(tables: Tables, owner: Owner) -> None:
    """The explorer's ``creates beside one in doubt``, in the re-check of the real gate."""
    replay = Replay(tables, owner, 0, updates=False)
    replay.claim(0, 1)
    for event in (Event.PASSED, Event.LOSE):
        replay.tell(0, 1, event)
    replay.claim(0, 1)
    replay.tell(0, 1, Event.REVIEW)
    replay.accept(2)
    replay.claim(0, 2)
    with tables.run.store.tenant(tables.run.id) as connection:
        found = Recheck(tables.run).objections(connection, [replay.held[0]])
    assert found == {replay.intents[1]: changes.Review("earlier_revision_in_doubt")}
