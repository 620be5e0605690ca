"""What a worker decides, in the model: the gate, the reading of an answer, and the look after a silence.

`Rules` is the engine as it is meant; a broken one overrides a line of it. The life of an intent is the real
`commit.protocol.transitions.step`, the classes of answers are the real `commit.protocol.error_classes`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from protocol.ehr import ANOTHERS, MOVED, PERSON, Answer, Resources, Shows, Tier

from fhir_writeback_dagster.commit.protocol import error_classes
from fhir_writeback_dagster.commit.protocol.answer import Answer as HttpAnswer
from fhir_writeback_dagster.commit.protocol.error_classes import ErrorClass, Recovery
from fhir_writeback_dagster.commit.protocol.transitions import Action, Event, IntentState, step

NEWEST = 1
"""The one fence that a model's intent ever has: only whether a speaker holds the newest matters, so states stay few."""

Step = Callable[[IntentState, Event, int | None], tuple[IntentState, tuple[Action, ...]]]


class Link(NamedTuple):
    """What the ledger remembers of the resource; ``revision`` 0: nothing. ``astray``: it names another patient's."""

    revision: int = 0
    version: int = 0
    astray: bool = False


class Plan(NamedTuple):
    update: bool
    base: int
    astray: bool = False


class Asked(NamedTuple):
    """What was sent, and whether an earlier send of the same had no answer."""

    revision: int
    update: bool
    unanswered: bool


class Sight(NamedTuple):
    """What a search or read showed. ``whole``: the EHR did not say that there is more."""

    many: int
    says: int = PERSON
    version: int = 0
    had: int = 0
    fresh: bool = False
    whole: bool = True


CUT = Sight(0, whole=False)


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


_OUTCOME = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "processing"}]}
_NOT_ACCEPTED = ErrorClass("odd_answer", Recovery.RECONCILE)


@cache
def classify(kind: error_classes.RequestKind, status: int) -> ErrorClass:
    """What the EHR itself says; of an error it gives an OperationOutcome."""
    headers = {"content-type": "application/fhir+json"}
    return error_classes.classify(kind, HttpAnswer(status, headers, parsed=_OUTCOME if status >= 400 else None))


@cache
def classify_page(kind: error_classes.RequestKind, status: int) -> ErrorClass:
    """What something before the EHR says."""
    return error_classes.classify(kind, HttpAnswer(status, {"content-type": "text/html"}, b"<html></html>"))


class Rules:
    """The engine as the design means it."""

    marks_before_sending = True
    keeps_deadline = True
    """A worker does not begin to send when its lease is over by its own clock."""
    fences = True
    rests = True
    """After a silence the target is left alone for the quiet period."""
    sends_once = True
    """A request is on the wire once a send marker: no library below sends it again."""
    names_patient = True
    """What is to be updated is ours and the patient's, as it is read now."""
    waits_a_second = True
    """What was changed within this second is not updated yet, where the EHR goes by the time."""
    heeds_doubt = True
    """What follows a revision that nobody knows the fate of goes to the person who has that one."""

    def step(self, now: IntentState, event: Event, fence: int | None) -> tuple[IntentState, tuple[Action, ...]]:
        return step(now, event, fence)

    def silence(self) -> ErrorClass:
        return error_classes.unanswered_outcome("create", sent=True)

    def outcome(self, kind: error_classes.RequestKind, status: int) -> ErrorClass:
        return classify(kind, status)

    def page(self, kind: error_classes.RequestKind, status: int) -> ErrorClass:
        return classify_page(kind, status)

    def searches(self, tier: Tier, link: Link) -> bool:
        """Is it by a search, and not by an id, that a look would find it?"""
        return tier.search and not link.revision and tier.create != "client_id"

    def see(self, tier: Tier, link: Link, resources: Resources) -> Sight | None:
        """Read by id where one is known, else search, which may lag; None: this target can be asked nothing."""
        if link.astray:
            return Sight(1, ANOTHERS)
        if link.revision or tier.create == "client_id":
            found = resources
        elif tier.search:
            found = tuple(r for r in resources if r.indexed)
        else:
            return None
        return Sight(len(found), *found[0][:3], found[0].fresh) if found else Sight(0)

    def needs_sight(self, tier: Tier, link: Link) -> bool:
        """Must the chart be read before it is known what to send?"""
        return bool(link.revision) or (tier.create == "plain" and tier.search)

    def plan(self, link: Link, revision: int, sight: Sight | None, *, doubt: bool) -> Event | Plan:
        """What is to be sent, or why nothing is.

        :param sight: what was read; None where nothing needs to be.
        :param doubt: an earlier revision ended with a person, and nobody knows whether it was applied.
        """
        if doubt and self.heeds_doubt and not link.revision:
            return Event.REVIEW
        if sight is None:
            return Plan(update=False, base=0)
        if not sight.many:
            return self.unseen(sight) or (Event.REVIEW if link.revision else Plan(update=False, base=0))
        if sight.says == revision:
            return Event.SETTLED
        if sight.says == PERSON or (sight.says in (MOVED, ANOTHERS) and self.names_patient):
            return Event.REVIEW
        if sight.fresh and self.waits_a_second:
            return Event.RETRY
        return Plan(update=True, base=sight.version, astray=link.astray)

    def unseen(self, sight: Sight) -> Event | None:
        """Nothing was shown; what if that is not all there is?"""
        return None if sight.whole else Event.RETRY

    def answered(self, tier: Tier, asked: Asked, answer: Answer | None, now: Resources) -> ErrorClass:
        """The class of an answer (None: none came); one that shows another content than ours is a person's matter."""
        if answer is None:
            return self.silence()
        kind: error_classes.RequestKind = "update" if asked.update else tier.kind
        if answer.shows is Shows.PAGE:
            return self.page(kind, answer.status)
        outcome = self.outcome(kind, answer.status)
        if answer.shows is Shows.ANOTHERS:
            return self.anothers(outcome)
        if outcome.event is Event.RETRY and self.doubts_refusal(tier, asked):
            return ErrorClass(outcome.code, Recovery.RECONCILE)
        if outcome.recovery is Recovery.COMPARE and answer.says != asked.revision:
            known = asked.unanswered and answer.had & 1 << asked.revision
            return (
                ErrorClass("found_in_history", Recovery.CONFIRM) if known else ErrorClass("existed_differently", Recovery.REVIEW)
            )
        if outcome.recovery is Recovery.REREAD:
            if now and now[0].had & 1 << asked.revision:
                return ErrorClass("found", Recovery.CONFIRM)
            return ErrorClass(outcome.code, Recovery.REVIEW if now and now[0].says <= PERSON else Recovery.QUARANTINE)
        return outcome

    def doubts_refusal(self, tier: Tier, asked: Asked) -> bool:
        """Is a search all that guards a repeat? Then it has to show first what a refused request did all the same."""
        return not asked.update and tier.create == "plain" and tier.search

    def anothers(self, outcome: ErrorClass) -> ErrorClass:  # noqa: ARG002 - whatever it says, it is not said of ours
        """A success that shows what is not ours is no answer."""
        return _NOT_ACCEPTED

    def located(self, tier: Tier, link: Link, answer: Answer, now: Resources) -> Answer:  # noqa: ARG002 - an id needs no search
        """What `Location` names, read: it is there, for the EHR has said so. What still shows nothing was not found."""
        return Answer(answer.status, *now[0][:3])

    def unlocated(self, *, update: bool) -> ErrorClass:
        """`Location` could not be read: what was acknowledged waits for it, and is never sent again."""
        return _NOT_ACCEPTED if update else ErrorClass("acknowledged", Recovery.POLL)

    def refused(self, *, given_up: bool) -> Event:
        """The target does not let us look."""
        return Event.REVIEW if given_up else Event.LOSE

    def looked(self, link: Link, revision: int, sight: Sight | None, *, given_up: bool) -> Event:
        """What became of an attempt that nobody answered."""
        if sight is None:
            return Event.REVIEW
        if sight.many and sight.had & 1 << revision:
            return Event.CONFIRM
        if not sight.whole:
            return self.half_seen()
        if given_up or (link.revision and not sight.many) or (sight.many and sight.says <= PERSON):
            return Event.REVIEW
        if sight.many and not link.revision:
            return Event.REVIEW
        return Event.ABSENT

    def half_seen(self) -> Event:
        return Event.LOSE
