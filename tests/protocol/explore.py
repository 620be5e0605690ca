"""A breadth-first explorer: every state that a model can reach, the shortest way to each, and what is wrong on the way.

A model gives ``start`` and ``moves(state)``. A broken invariant is raised as `Violation` by the model while it makes a move;
`explore` adds the shortest trace. What no single move can show — that everything comes to an end — is asked of the whole graph
afterwards by `dead_end` and `livelock`.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)


class Violation(Exception):
    """An invariant does not hold; ``invariant`` is its name."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(invariant, what)
        self.invariant, self.what = invariant, what


@dataclass(frozen=True, slots=True)
class Move(Generic[S]):
    """One step of the model: what a reader is told, whether it is a fault, and where it leads (or which invariant it breaks)."""

    text: str
    to: S | Violation
    fault: bool = False
    environment: bool = False
    """The network's or the server's own: it happens sooner or later, whatever the workers do."""
    tells: object = None
    """What the move says to the protocol, for those who replay it."""


class Model(Protocol[S]):
    def start(self) -> S: ...
    def moves(self, state: S) -> Iterable[Move[S]]: ...
    def show(self, state: S) -> str: ...


@dataclass(slots=True)
class Found(Generic[S]):
    """All states by number; ``came_from`` is the shortest way to each, ``edges`` the moves that are no fault."""

    states: list[S] = field(default_factory=list)
    came_from: list[tuple[int, Move[S]]] = field(default_factory=list)
    edges: list[list[int]] = field(default_factory=list)
    waits_for_environment: list[bool] = field(default_factory=list)
    transitions: int = 0
    violation: Violation | None = None
    violated_at: int = -1
    violated_by: str = ""

    def trace(self, number: int) -> list[tuple[Move[S], S]]:
        """The shortest way from the start: (move, state after it)."""
        way = []
        while number >= 0:
            before, move = self.came_from[number]
            way.append((move, self.states[number]))
            number = before
        return way[::-1]


def explore(model: Model[S], *, limit: int = 2_000_000) -> Found[S]:
    """Every reachable state, or all up to the first broken invariant (by breadth: no shorter trace breaks any).

    :raises RuntimeError: more than ``limit`` states: the model is not as bounded as was thought.
    """
    was_on = gc.isenabled()
    gc.disable()  # millions of small tuples, none of them in a circle: collecting doubles the time
    try:
        return _explore(model, limit)
    finally:
        if was_on:
            gc.enable()


def _explore(model: Model[S], limit: int) -> Found[S]:
    found: Found[S] = Found()
    start = model.start()
    number = {start: 0}
    found.states.append(start)
    found.came_from.append((-1, Move("start", start)))
    queue = deque([0])
    while queue:
        here = queue.popleft()
        edges: list[int] = []
        waits = False
        for move in model.moves(found.states[here]):
            found.transitions += 1
            if isinstance(move.to, Violation):
                found.violation, found.violated_at, found.violated_by = move.to, here, move.text
                return found
            there = number.get(move.to)
            if there is None:
                there = number[move.to] = len(found.states)
                if there >= limit:
                    raise RuntimeError(f"more than {limit} states")
                found.states.append(move.to)
                found.came_from.append((here, move))
                queue.append(there)
            if not move.fault:
                edges.append(there)
            waits = waits or move.environment
        found.edges.append(edges)
        found.waits_for_environment.append(waits)
    return found


def dead_end(found: Found[S], is_end: Callable[[S], bool]) -> int | None:
    """A state from which no end can be reached any more, even if no further fault happens."""
    backwards: list[list[int]] = [[] for _ in found.states]
    for here, edges in enumerate(found.edges):
        for there in edges:
            backwards[there].append(here)
    queue = deque(n for n, state in enumerate(found.states) if is_end(state))
    good = bytearray(len(found.states))
    for n in queue:
        good[n] = 1
    while queue:
        for before in backwards[queue.popleft()]:
            if not good[before]:
                good[before] = 1
                queue.append(before)
    bad = good.find(0)
    return None if bad < 0 else bad


def livelock(found: Found[S]) -> int | None:
    """A state on a circle of moves without a fault, where nothing of the environment is outstanding: work that never ends.

    A circle on which the network or the server still owes a move is not one: they move sooner or later, and never back.
    """
    inside = [not waits for waits in found.waits_for_environment]
    incoming = [0] * len(found.states)
    for here, edges in enumerate(found.edges):
        if inside[here]:
            for there in edges:
                incoming[there] += inside[there]
    free = deque(n for n in range(len(found.states)) if inside[n] and not incoming[n])
    done = 0
    while free:
        here = free.popleft()
        done += 1
        for there in found.edges[here]:
            if inside[there]:
                incoming[there] -= 1
                if not incoming[there]:
                    free.append(there)
    if done == sum(inside):
        return None
    return next(n for n in range(len(found.states)) if inside[n] and incoming[n])


def story(model: Model[S], found: Found[S], number: int, last: str = "") -> str:
    """A trace for people: a line a move, with the state that it leads to."""
    way = found.trace(number)
    width = max(len(move.text) for move, _ in way)
    lines = [f"{n:>3}  {move.text:<{width}}  {model.show(state)}" for n, (move, state) in enumerate(way)]
    return "\n".join([*lines, f"{len(way):>3}  {last}"] if last else lines)
