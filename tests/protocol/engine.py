"""What a worker decides, in the model: the gate, the reading of an answer, and the look after a silence.

`Rules` is the engine as it is meant; a broken one overrides a line of it. The life of an intent is the real
`commit.protocol.step`, the classes of answers are the real `commit.taxonomy`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from protocol.ehr import PERSON, Answer, Resources, Tier

from fhir_writeback_dagster.commit.protocol import error_classes
from fhir_writeback_dagster.commit.protocol.answer import Answer as HttpAnswer
from fhir_writeback_dagster.commit.protocol.error_classes import ErrorClass, Recovery
from fhir_writeback_dagster.commit.protocol.transitions import Action, Event, IntentState, step

NEWEST = 1
"""The one fence that a model's intent ever has: only whether a speaker holds the newest matters, so states stay few."""

Step = Callable[[IntentState, Event, int | None], tuple[IntentState, tuple[Action, ...]]]


class Link(NamedTuple):
    """What the ledger remembers of the resource; ``revision`` 0: nothing."""

    revision: int = 0
    version: int = 0


class Plan(NamedTuple):
    update: bool
    base: int


class Asked(NamedTuple):
    """What was sent, and whether an earlier send of the same had no answer."""

    revision: int
    update: bool
    unanswered: bool


class Sight(NamedTuple):
    """What a search or read showed."""

    many: int
    says: int = PERSON
    version: int = 0
    had: int = 0


class Lived(NamedTuple):
    life: IntentState
    actions: frozenset[Action]
    fenced_off: bool
    """The fence rose: older holders are late from now on."""


@cache
def live(protocol: Step, now: IntentState, event: Event, *, newest: bool) -> Lived:
    """One step, with the intent's fence held at NEWEST."""
    after, actions = protocol(now, event, NEWEST if newest else NEWEST - 1)
    return Lived(IntentState(after.state, NEWEST, after.unanswered, after.accepted), frozenset(actions), after.fence != now.fence)


@cache
def classify(kind: error_classes.RequestKind, status: int) -> ErrorClass:
    return error_classes.classify(kind, HttpAnswer(status))


class Rules:
    """The engine as the design means it."""

    marks_before_sending = True
    keeps_deadline = True
    """A worker does not begin to send when its lease is over by its own clock."""
    fences = True
    rests = True
    """After a silence the target is left alone for the quiet period."""
    heeds_doubt = True
    """What follows a revision that nobody knows the fate of goes to the person who has that one."""

    def step(self, now: IntentState, event: Event, fence: int | None) -> tuple[IntentState, tuple[Action, ...]]:
        return step(now, event, fence)

    def silence(self) -> ErrorClass:
        return error_classes.unanswered_outcome("create", sent=True)

    def outcome(self, kind: error_classes.RequestKind, status: int) -> ErrorClass:
        return classify(kind, status)

    def see(self, tier: Tier, link: Link, resources: Resources) -> Sight | None:
        """Read by id where one is known, else search, which may lag; None: this target can be asked nothing."""
        if link.revision or tier.create == "client_id":
            found = resources
        elif tier.search:
            found = tuple(r for r in resources if r.indexed)
        else:
            return None
        return Sight(len(found), *found[0][:3]) if found else Sight(0)

    def plan(self, tier: Tier, link: Link, revision: int, resources: Resources, *, doubt: bool) -> Event | Plan:
        """What is to be sent, or why nothing is.

        :param doubt: an earlier revision ended with a person, and nobody knows whether it was applied.
        """
        if doubt and self.heeds_doubt and not link.revision:
            return Event.REVIEW
        if not link.revision and (tier.create != "plain" or not tier.search):
            return Plan(update=False, base=0)
        sight = self.see(tier, link, resources)
        assert sight is not None
        if not sight.many:
            return Event.REVIEW if link.revision else Plan(update=False, base=0)
        if sight.says == revision:
            return Event.SETTLED
        if sight.says == PERSON:
            return Event.REVIEW
        return Plan(update=True, base=sight.version)

    def answered(self, tier: Tier, asked: Asked, answer: Answer | None, now: Resources) -> ErrorClass:
        """The class of an answer (None: none came); one that shows another content than ours is a person's matter."""
        if answer is None:
            return self.silence()
        outcome = self.outcome("update" if asked.update else tier.kind, answer.status)
        if outcome.recovery is Recovery.COMPARE and answer.says != asked.revision:
            known = asked.unanswered and answer.had & 1 << asked.revision
            return (
                ErrorClass("found_in_history", Recovery.CONFIRM) if known else ErrorClass("existed_differently", Recovery.REVIEW)
            )
        if outcome.recovery is Recovery.REREAD:
            if now and now[0].had & 1 << asked.revision:
                return ErrorClass("found", Recovery.CONFIRM)
            return ErrorClass(outcome.code, Recovery.REVIEW if now and now[0].says == PERSON else Recovery.QUARANTINE)
        return outcome

    def refused(self, *, given_up: bool) -> Event:
        """The target does not let us look."""
        return Event.REVIEW if given_up else Event.LOSE

    def looked(self, link: Link, revision: int, sight: Sight | None, *, given_up: bool) -> Event:
        """What became of an attempt that nobody answered."""
        if sight is None:
            return Event.REVIEW
        if sight.many and sight.had & 1 << revision:
            return Event.CONFIRM
        if given_up or (link.revision and not sight.many) or (sight.many and sight.says == PERSON):
            return Event.REVIEW
        if sight.many and not link.revision:
            return Event.REVIEW
        return Event.ABSENT
