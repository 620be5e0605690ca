"""The protocol under every fault, exhaustively: the real ``commit.protocol.transitions.step`` and error classes in a small world.

``one_resource``          at most one resource a business key
``nothing_lost``          what is called committed stood in the EHR; what is dropped has something newer in its place
``none_reverted``         no revision is overwritten by an older one
``person_stands``         what a person wrote is not overwritten
``own_patient``           nothing is written into another patient's resource, nor into the chart of another patient
``ours_stays_ours``       what we wrote is not taken for somebody else's
``fresh_recheck``         nothing is sent on a re-check from before its last claim
``nobody_asked_in_vain``  no person is asked about our own doing
``every_intent_ends``     from every reachable state an end is reachable, and without faults it is reached

A failure prints the shortest trace.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from protocol.broken import BROKEN, Broken
from protocol.ehr import (
    ATOMIC,
    BLIND,
    BY_CONTENT,
    BY_TIME,
    CLIENT_ID,
    MEDIATED,
    NO_IF_MATCH,
    NOTHING,
    RACY,
    REVISION_KEY,
    SEARCH,
    VENDOR_KEY,
)
from protocol.engine import Rules
from protocol.explore import Found, dead_end, explore, livelock, story
from protocol.model import Model
from protocol.world import Budget, World
from support import PROJECT

from fhir_writeback_dagster.commit.protocol.transitions import Event, IntentState, State, step

EVERY_FAULT = Budget(
    faults=2, crashes=2, stops=1, expiries=2, losses=2, duplicates=1, busy=1, rejections=1, revocations=1, edits=1
)
"""Any two of them, in any order, at any point."""
WIRE_FAULTS = Budget(faults=2, crashes=1, expiries=1, losses=2, duplicates=1)
DEEP = Budget(faults=4, crashes=2, losses=2, duplicates=1)
"""For explorations without late workers, where a worker whose lease runs out is the same as one that dies."""
MISLED = Budget(faults=2, crashes=1, losses=1, busy=1, edits=1, moves=1, swaps=1, bare=1, denials=1, pages=1, cuts=2)
"""Any two of them, those included that come as an answer and are none."""
ONCE_EACH = EVERY_FAULT._replace(duplicates=0)
"""Every request arrives at most once."""


_RELEASED = Budget(faults=3, rejections=1, releases=1, losses=1, pages=1, crashes=1)
"""What was given up is let go by a person, whatever came meanwhile."""


def _exact(model: Model) -> Model:
    """A resource that comes late or twice from before may be another revision's: then a person is asked, and rightly."""
    return model if model.updates else Model(**{**vars(model), "judges_reviews": False})


EXACT = {
    "client-assigned id": _exact(Model(CLIENT_ID, bounded=False, budget=WIRE_FAULTS)),
    "vendor idempotency key": _exact(Model(VENDOR_KEY, bounded=False, budget=WIRE_FAULTS)),
    "atomic If-None-Exist": _exact(Model(ATOMIC, bounded=False, budget=EVERY_FAULT)),
    "If-Match": Model(ATOMIC, bounded=False, budget=EVERY_FAULT, updates=True),
    "If-Unmodified-Since": Model(BY_TIME, bounded=False, budget=MISLED, updates=True),
    "client-assigned id, misled": _exact(Model(CLIENT_ID, bounded=False, budget=MISLED)),
    "vendor idempotency key, misled": _exact(Model(VENDOR_KEY, bounded=False, budget=MISLED)),
    "atomic If-None-Exist, misled": _exact(Model(ATOMIC, bounded=False, budget=MISLED)),
    "If-Match, misled": Model(ATOMIC, bounded=False, budget=MISLED, updates=True),
    "atomic If-None-Exist, released": _exact(Model(ATOMIC, bounded=False, budget=_RELEASED)),
    "If-Match, released": Model(ATOMIC, bounded=False, budget=_RELEASED, updates=True),
    "client-assigned id, deep": _exact(Model(CLIENT_ID, bounded=False, budget=DEEP._replace(faults=3), drops_late_workers=True)),
    "vendor key, deep": _exact(Model(VENDOR_KEY, bounded=False, budget=DEEP._replace(faults=3), drops_late_workers=True)),
    "atomic If-None-Exist, deep": _exact(Model(ATOMIC, bounded=False, budget=DEEP, drops_late_workers=True)),
    "If-Match, deep": Model(ATOMIC, bounded=False, budget=DEEP, updates=True, drops_late_workers=True),
}
"""Whatever is late, lost or repeated."""

_TRUE_REFUSALS = MISLED._replace(denials=0)
"""What is answered with 429 was not done."""
_ACKNOWLEDGED = Budget(faults=2, bare=1, busy=1, edits=1, moves=1)
_ANSWERED = Budget(faults=3, losses=1, edits=1, swaps=1, pages=1, busy=1)
BOUNDED = {
    "atomic If-None-Exist": Model(ATOMIC, bounded=True, budget=ONCE_EACH),
    "non-atomic If-None-Exist": Model(RACY, bounded=True, budget=ONCE_EACH),
    "search before create": Model(SEARCH, bounded=True, budget=ONCE_EACH),
    "nothing": Model(NOTHING, bounded=True, budget=ONCE_EACH),
    "If-Match ignored": Model(NO_IF_MATCH, bounded=True, budget=ONCE_EACH._replace(edits=0), updates=True),
    "If-Match, requests repeated": Model(ATOMIC, bounded=True, budget=EVERY_FAULT, updates=True),
    "mediated, no 202 lost": Model(MEDIATED, bounded=True, budget=Budget(faults=2, busy=1, revocations=1, rejections=1)),
    "looks refused": Model(BLIND, bounded=True, budget=ONCE_EACH),
    "non-atomic If-None-Exist, misled": Model(RACY, bounded=True, budget=_TRUE_REFUSALS),
    "search before create, released": Model(SEARCH, bounded=True, budget=_RELEASED),
    "nothing, released": Model(NOTHING, bounded=True, budget=_RELEASED),
    "search before create, misled": Model(SEARCH, bounded=True, budget=MISLED),
    "search before create, a slow index": Model(SEARCH, bounded=True, lags=True, budget=_ACKNOWLEDGED),
    "identifiers dropped, misled": Model(BY_CONTENT, bounded=True, budget=MISLED, revisions=1),
    "nothing, misled": Model(NOTHING, bounded=True, budget=_TRUE_REFUSALS),
    "If-Match ignored, misled": Model(NO_IF_MATCH, bounded=True, budget=MISLED._replace(edits=0, moves=0), updates=True),
    "If-Match ignored, people answer us": Model(
        NO_IF_MATCH, bounded=True, budget=_ANSWERED, revisions=1, updates=True, answers_us=True
    ),
    "mediated, misled": Model(MEDIATED, bounded=True, budget=MISLED._replace(losses=0, crashes=0, pages=0)),
    "looks refused, misled": Model(BLIND, bounded=True, budget=_TRUE_REFUSALS),
    "non-atomic, deep": Model(RACY, bounded=True, budget=DEEP._replace(duplicates=0), drops_late_workers=True),
    "search, deep": Model(SEARCH, bounded=True, budget=DEEP._replace(duplicates=0), drops_late_workers=True),
    "nothing, deep": Model(NOTHING, bounded=True, budget=DEEP._replace(duplicates=0), drops_late_workers=True),
}
"""Where nothing is under way any more when the quiet period ends, and the index shows what is stored."""

_LOSS, _TWICE, _DENIED = Budget(faults=1, losses=1), Budget(faults=1, duplicates=1), Budget(faults=1, denials=1)
NOT_WITHOUT = {
    "non-atomic If-None-Exist without the bound": (Model(RACY, bounded=False, budget=_LOSS), "one_resource"),
    "search before create without the bound": (Model(SEARCH, bounded=False, budget=_LOSS), "one_resource"),
    "If-Match ignored without the bound": (Model(NO_IF_MATCH, bounded=False, budget=_LOSS, updates=True), "none_reverted"),
    "non-atomic If-None-Exist, repeated": (Model(RACY, bounded=True, budget=_TWICE), "one_resource"),
    "search before create, repeated": (Model(SEARCH, bounded=True, budget=_TWICE), "one_resource"),
    "nothing, repeated": (Model(NOTHING, bounded=True, budget=_TWICE), "one_resource"),
    "non-atomic If-None-Exist, refused though done": (Model(RACY, bounded=True, budget=_DENIED), "one_resource"),
    "nothing, refused though done": (Model(NOTHING, bounded=True, budget=_DENIED), "one_resource"),
    "If-Match ignored, repeated": (Model(NO_IF_MATCH, bounded=True, budget=_TWICE, updates=True), "none_reverted"),
    "If-Match ignored, a person writes": (
        Model(NO_IF_MATCH, bounded=True, budget=Budget(faults=1, edits=1), updates=True),
        "person_stands",
    ),
    "vendor idempotency key, but of each revision": (Model(REVISION_KEY, bounded=False, budget=_LOSS), "one_resource"),
    "mediated, its 202 lost": (Model(MEDIATED, bounded=True, budget=_LOSS), "one_resource"),
}
"""What a tier cannot promise: the assumption that `docs/protocol.md` names for it, dropped."""


def broken_invariant(model: Model) -> tuple[str | None, str]:
    """Which invariant the exploration finds broken, and the shortest trace to that."""
    found: Found[World] = explore(model)
    if found.violation is not None:
        return found.violation.invariant, story(model, found, found.violated_at, f"{found.violated_by}: {found.violation.what}")
    stuck = dead_end(found, model.is_end)
    stuck = livelock(found) if stuck is None else stuck
    return (None, "") if stuck is None else ("every_intent_ends", story(model, found, stuck, "… and never ends"))


@pytest.mark.parametrize("model", EXACT.values(), ids=EXACT)
def test_exact_whatever_is_late_lost_or_repeated(model: Model) -> None:
    broken, trace = broken_invariant(model)
    assert broken is None, f"{broken}\n{trace}"


@pytest.mark.parametrize("model", BOUNDED.values(), ids=BOUNDED)
def test_exact_under_bounded_delay(model: Model) -> None:
    broken, trace = broken_invariant(model)
    assert broken is None, f"{broken}\n{trace}"


@pytest.mark.parametrize(("model", "invariant"), NOT_WITHOUT.values(), ids=NOT_WITHOUT)
def test_what_a_tier_cannot_promise(model: Model, invariant: str) -> None:
    assert broken_invariant(model)[0] == invariant


def test_where_nothing_can_be_asked_a_silence_goes_to_a_person() -> None:
    model = Model(NOTHING, bounded=False, budget=Budget(faults=2, losses=1, crashes=1), revisions=1)
    found = explore(model)
    ends = {world.intents[0].life for world in found.states if model.is_end(world)}
    assert {life.state for life in ends if life.unanswered} == {State.IN_REVIEW}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_a_broken_engine_is_caught(broken: Broken) -> None:
    invariant, trace = broken_invariant(broken.model())
    assert invariant == broken.caught_by, trace
    # The same case holds with the right engine, so the mutation is at fault and not the case.
    assert broken_invariant(broken.model(Rules()))[0] is None


def test_what_a_late_holder_says_changes_nothing() -> None:
    """So exploring deeper without workers whose fence is old leaves nothing out."""
    from_holder = set(Event) - {Event.CLAIM, Event.EXPIRE, Event.SUPERSEDE, Event.REOPEN, Event.RELEASE}
    for state, unanswered, accepted in itertools.product(State, (False, True), (False, True)):
        now = IntentState(state, 7, unanswered, accepted)
        for event in from_holder:
            assert step(now, event, None) == (now, ())
        for event, fence in itertools.product(Event, (6, 8)):
            assert step(now, event, fence) == (now, ())


def test_a_trace_is_readable() -> None:
    """What a failure prints: a line a move, with intents, chart and late requests."""
    model = Model(SEARCH, bounded=False, budget=_LOSS, revisions=1)
    lines = broken_invariant(model)[1].splitlines()
    assert lines[0].split() == ["0", "start", "r1:ready", "|", "EHR:", "nothing"]
    assert "r1's worker commits the send marker" in lines[3]
    assert lines[-1].strip().endswith("r1 is created beside the resource that is there")


def test_the_page_promises_what_is_explored() -> None:
    """Each tier of `docs/protocol.md` is explored under what its promise assumes; where it assumes something, also without."""
    page = (PROJECT / "docs" / "protocol.md").read_text(encoding="utf-8").replace("`", "")
    promises = dict(re.findall(r"^\| ([^|]+?) \| (exact[^|]*?) \|", page, re.MULTILINE))
    assert len(promises) == 9
    for tier, promise in promises.items():
        explored: list[Any] = [EXACT] if promise == "exact" else [BOUNDED, NOT_WITHOUT]
        assert all(any(tier.startswith(case.split(",")[0].split(" without")[0]) for case in cases) for cases in explored), tier
