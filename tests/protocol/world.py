"""The state of the model: two workers, the ledger, the network and one EHR, for one fact whose revisions come meanwhile.

Everything that is not the protocol is as small as it can be without hiding a fault: one business key, fences reduced to *newest
or late*, time reduced to *may the quiet period be over yet*.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache
from typing import NamedTuple

from protocol.ehr import MOVED, PERSON, Answer, Request, Resources
from protocol.engine import NEWEST, Link, Plan, Sight

from fhir_writeback_dagster.commit.protocol.transitions import IntentState, State

HELD = frozenset({State.LEASED, State.SENDING, State.RECONCILING})


class At(IntEnum):
    """Where a worker stands in its work on one intent."""

    IDLE = 0
    CLAIMED = 1
    CHECKED = 2
    MARKED = 3
    WAITING = 4
    ANSWERED = 5
    LOOKING = 6
    LOOKED = 7


class Worker(NamedTuple):
    """``()`` stands for none, because workers are sorted: two that could change places are one state, not two."""

    revision: int = 0
    newest: bool = False
    at: At = At.IDLE
    plan: tuple[()] | Plan = ()
    request: tuple[()] | Request = ()
    heard: tuple[()] | Answer | Sight = ()


IDLE = Worker()


class Intent(NamedTuple):
    """``checked``: a re-check passed since it was last claimed. ``rests``: it waits for the end of the quiet period.
    ``given_up``: the patience with a target that took it for mediation is over.
    """

    life: IntentState = IntentState(fence=NEWEST)
    checked: bool = False
    rests: bool = False
    given_up: bool = False


class Budget(NamedTuple):
    """How often each fault may still happen, and how many of all kinds together."""

    faults: int = 0
    crashes: int = 0
    stops: int = 0
    expiries: int = 0
    losses: int = 0
    duplicates: int = 0
    busy: int = 0
    rejections: int = 0
    revocations: int = 0
    edits: int = 0
    moves: int = 0
    """A person files the resource into another patient's chart."""
    swaps: int = 0
    """A success is answered with what belongs to another request."""
    bare: int = 0
    """A success is answered without a body."""
    denials: int = 0
    """What was done is answered with 429."""
    pages: int = 0
    """A gateway answers in place of the EHR, whatever becomes of the request."""
    releases: int = 0
    """A person lets go what was given up."""
    cuts: int = 0
    """A search shows a part of what there is, and says so."""

    def has(self, kind: str) -> bool:
        return bool(self.faults and getattr(self, kind))

    def less(self, kind: str) -> Budget:
        return _less(self, kind)


@cache
def _less(budget: Budget, kind: str) -> Budget:
    return budget._replace(faults=budget.faults - 1, **{kind: getattr(budget, kind) - 1})


class World(NamedTuple):
    intents: tuple[Intent, ...]
    """Revision n stands at n - 1."""
    workers: tuple[Worker, Worker]
    orphans: tuple[Request, ...]
    """Requests that nobody waits for any more, still on their way or in the server's hands."""
    resources: Resources
    link: Link
    budget: Budget

    # Written out, not with _replace, which takes three times as long: these make most of the states.
    def put(self, n: int, worker: Worker) -> World:
        workers = (worker, self.workers[1]) if n == 0 else (self.workers[0], worker)
        return World(self.intents, workers, self.orphans, self.resources, self.link, self.budget)

    def put_intent(self, revision: int, intent: Intent) -> World:
        intents = (*self.intents[: revision - 1], intent, *self.intents[revision:])
        return World(intents, self.workers, self.orphans, self.resources, self.link, self.budget)

    def spend(self, kind: str) -> World:
        return World(self.intents, self.workers, self.orphans, self.resources, self.link, self.budget.less(kind))

    def add(self, request: Request) -> World:
        orphans = tuple(sorted((*self.orphans, request)))
        return World(self.intents, self.workers, orphans, self.resources, self.link, self.budget)

    def without(self, request: Request) -> World:
        n = self.orphans.index(request)
        orphans = (*self.orphans[:n], *self.orphans[n + 1 :])
        return World(self.intents, self.workers, orphans, self.resources, self.link, self.budget)

    def orphan(self, worker: Worker) -> World:
        """``worker`` goes away; its request, if it waits for one, goes on without it."""
        return self.add(worker.request) if worker.at is At.WAITING and isinstance(worker.request, Request) else self

    def requests(self) -> list[Request]:
        held = [run.request for run in self.workers if run.at is At.WAITING and isinstance(run.request, Request)]
        return [*held, *self.orphans]


def name_of(worker: Worker) -> str:
    return f"r{worker.revision}'s {'worker' if worker.newest else 'late worker'}"


_WHOSE = {PERSON: "a person", MOVED: "another patient's"}


def show(world: World) -> str:
    """One line: the intents (``?``: a send without an answer), the chart, and requests that come late."""
    lives = " ".join(f"r{n}:{i.life.state}{'?' if i.life.unanswered else ''}" for n, i in enumerate(world.intents, 1))
    chart = " ".join(f"{_WHOSE.get(r.says, f'r{r.says}')} v{r.version}" for r in world.resources)
    late = " ".join(f"r{r.revision}" for r in world.orphans)
    return f"{lives} | EHR: {chart or 'nothing'}{f' | on its way: {late}' if late else ''}"
