"""The moves of the model. Each move of an intent is one call of the real protocol's ``step``.

Under ``bounded`` delay the quiet period is over only when every request has arrived or is lost for good and the search index
shows what is stored; without the bound it may be over at any moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from protocol import network, workers
from protocol.ehr import PERSON, Phase, Resource, Tier, inert
from protocol.engine import NEWEST, Link, Rules, live
from protocol.explore import Move, Violation
from protocol.world import HELD, IDLE, At, Budget, Intent, Worker, World, show

from fhir_writeback_dagster.commit.protocol.transitions import ENDS, Action, Event, IntentState, State

Told = tuple[int, int, Event]
"""Who tells it (a worker's number; -1: the ledger itself), of which revision, what."""


@dataclass(frozen=True)
class Model:
    """One exploration: a tier, what may go wrong how often, and the rules that the workers follow."""

    tier: Tier
    bounded: bool
    budget: Budget
    revisions: int = 2
    lags: bool = False
    """The search index may show what is stored later than the quiet period ends."""
    answers_us: bool = False
    """People change the resource only when they have seen the newest revision in it."""
    updates: bool = False
    """The first revision stands in the EHR already; the others come to a resource that is linked."""
    rules: Rules = field(default_factory=Rules)
    drops_late_workers: bool = False
    """Leave out workers whose fence is old: they cannot change the ledger (a test shows it of ``step``) and do not send."""
    judges_reviews: bool = True
    """Nobody may be asked about our own doing."""
    sorts_workers: bool = True

    def start(self) -> World:
        if not self.updates:
            return World((Intent(),), (IDLE, IDLE), (), (), Link(), self.budget)
        done = Intent(IntentState(State.COMMITTED, NEWEST))
        there = (Resource(1, 1, 1 << 1, indexed=True),)
        return World((done, Intent()), (IDLE, IDLE), (), there, Link(1, 1), self.budget)

    def moves(self, world: World) -> Iterator[Move[World]]:
        yield from self._decide(world)
        yield from self._ledger(world)
        yield from workers.moves(self, world)
        yield from network.moves(self, world)

    def is_end(self, world: World) -> bool:
        return all(intent.life.state in ENDS for intent in world.intents)

    def show(self, world: World) -> str:
        return show(world)

    def move(
        self, text: str, world: World, *, fault: bool = False, environment: bool = False, tells: Told | None = None
    ) -> Move[World]:
        if self.sorts_workers and world.workers[0] > world.workers[1]:
            world = world._replace(workers=world.workers[::-1])
        if world.orphans and any(inert(self.tier, world.resources, r) for r in world.orphans):
            world = world._replace(orphans=tuple(r for r in world.orphans if not inert(self.tier, world.resources, r)))
        return Move(text, world, fault, environment, tells)

    def apply(
        self, world: World, revision: int, event: Event, *, newest: bool = True, quiet: bool = True
    ) -> tuple[World, frozenset[Action]]:
        """One step of the real protocol. ``quiet``: what became unknown by it has to rest first.

        :raises Violation: an intent is dropped, and nothing newer takes its place.
        """
        intent = world.intents[revision - 1]
        lived = live(self.rules.step, intent.life, event, newest=newest or not self.rules.fences)
        if lived.life.state is State.DISCARDED and revision == len(world.intents):
            raise Violation("nothing_lost", f"r{revision} is dropped, and nothing newer takes its place")
        rests = quiet if lived.life.state is State.UNKNOWN is not intent.life.state and event is not Event.STOP else intent.rests
        checked = intent.checked and event is not Event.CLAIM
        world = world.put_intent(revision, Intent(lived.life, checked, rests, intent.given_up))
        if lived.fenced_off:
            for n, worker in enumerate(world.workers):
                if worker.revision == revision:
                    world = self._late(world, n, worker)
        return world, lived.actions

    def _late(self, world: World, n: int, worker: Worker) -> World:
        if self.drops_late_workers:
            return world.orphan(worker).put(n, IDLE)
        return world.put(n, worker._replace(newest=False))

    def claimable(self, world: World, revision: int) -> bool:
        """The oldest open revision only; after a silence, when the quiet period is over."""
        if any(intent.life.state not in ENDS for intent in world.intents[: revision - 1]):
            return False
        intent = world.intents[revision - 1]
        if intent.life.state is State.UNKNOWN and intent.rests and self.rules.rests and self.bounded:
            return self._has_rested(world)
        return True

    def _has_rested(self, world: World) -> bool:
        """A mediator is no network: what it took in hand may take days."""
        away = [r for r in world.requests() if not (self.tier.create == "mediated" and r.phase is Phase.IN_HAND)]
        return not away and (self.lags or all(r.indexed for r in world.resources))

    def may_touch(self, world: World) -> bool:
        """May a person change the resource now? Once they have, it is theirs."""
        says = world.resources[0].says
        return says == len(world.intents) if self.answers_us else says > PERSON

    def _has_patience(self, intent: Intent) -> bool:
        """It waits for a mediator, or for a target that lets us look."""
        refused = self.tier.refuses_looks and intent.life.state is State.UNKNOWN
        return (intent.life.accepted or refused) and not intent.given_up

    def _decide(self, world: World) -> Iterator[Move[World]]:
        if len(world.intents) < self.revisions + self.updates:
            now = world._replace(intents=(*world.intents, Intent()))
            newest = len(now.intents)
            for revision in range(1, newest):
                now, _ = self.apply(now, revision, Event.SUPERSEDE)
            yield self.move(f"decide accepts r{newest}", now, tells=(-1, newest, Event.SUPERSEDE))
        for revision, intent in enumerate(world.intents, 1):
            if intent.life.state is State.WITHDRAWN:
                now, _ = self.apply(world, revision, Event.REOPEN)
                yield self.move(f"decide makes a new verdict for r{revision}", now, tells=(-1, revision, Event.REOPEN))

    def _ledger(self, world: World) -> Iterator[Move[World]]:
        for revision, intent in enumerate(world.intents, 1):
            if intent.life.state in HELD:
                alive = any(run.revision == revision and run.newest and run.at is not At.IDLE for run in world.workers)
                if not alive or world.budget.has("expiries"):
                    now, _ = self.apply(world.spend("expiries") if alive else world, revision, Event.EXPIRE)
                    yield self.move(f"the lease of r{revision} runs out", now, fault=alive, tells=(-1, revision, Event.EXPIRE))
            elif intent.life.state is State.QUARANTINED and world.budget.has("releases"):
                now, _ = self.apply(world.spend("releases"), revision, Event.RELEASE)
                yield self.move(f"a person lets r{revision} go", now, fault=True, tells=(-1, revision, Event.RELEASE))
            elif self._has_patience(intent) and not world.orphans:
                now = world.put_intent(revision, intent._replace(given_up=True))
                yield self.move(f"the patience with r{revision} is over", now, environment=True)
