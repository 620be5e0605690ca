"""Engines that are wrong in one thing each. The explorer has to catch every one; `caught_by` says where and on what."""

from __future__ import annotations

from dataclasses import dataclass
from unittest.mock import patch

from protocol.ehr import ATOMIC, BLIND, BY_CONTENT, BY_TIME, NO_IF_MATCH, NOTHING, SEARCH, Answer, Resources, Shows, Tier
from protocol.engine import Asked, Link, Rules, Sight
from protocol.model import Model
from protocol.world import Budget

from fhir_writeback_dagster.commit.protocol import error_classes, transitions
from fhir_writeback_dagster.commit.protocol.error_classes import ErrorClass, Recovery
from fhir_writeback_dagster.commit.protocol.transitions import Action, Event, IntentState, State


class RetryOnTimeout(Rules):
    """No answer is taken for *not done*."""

    def silence(self) -> ErrorClass:
        return error_classes.NOT_SENT


class NoMarker(Rules):
    """The request leaves first and is written down with its answer."""

    marks_before_sending = False


class NoQuietPeriod(Rules):
    """After a silence the target is looked at and written to at once."""

    rests = False


class NoFence(Rules):
    """Whoever once held an intent may go on writing about it."""

    fences = False


class NoDeadline(Rules):
    """A worker that was held up sends although its lease is over."""

    keeps_deadline = False


class NoDoubt(Rules):
    """The next revision is created although a person still has to find out about the first."""

    heeds_doubt = False


class NoPatienceLimit(Rules):
    """What the target does not let us look up is looked up again and again."""

    def refused(self, *, given_up: bool) -> Event:  # noqa: ARG002
        return Event.LOSE


class ConflictWithoutLook(Rules):
    """A 412 is a conflict, whoever wrote what stands there."""

    def outcome(self, kind: error_classes.RequestKind, status: int) -> ErrorClass:
        return ErrorClass("conflict", Recovery.REVIEW) if status == 412 else super().outcome(kind, status)


class RaceReadAsStale(Rules):
    """A 409 always means that our version is old, on a create too."""

    def outcome(self, kind: error_classes.RequestKind, status: int) -> ErrorClass:
        return ErrorClass("stale", Recovery.REVIEW) if status == 409 else super().outcome(kind, status)


class SendsByItself(Rules):
    """The HTTP library sends a request again when the connection closes without an answer."""

    sends_once = False


class AnswersByPlace(Rules):
    """What an answer shows is ours because it answers us; an update goes where the link says."""

    names_patient = False

    def anothers(self, outcome: ErrorClass) -> ErrorClass:
        return outcome


class AnswersByPlaceOnly(AnswersByPlace):
    """The same, but whose resource it is is looked at before it is updated."""

    names_patient = True


class NoLastLine(Rules):
    """Whose resource it is was looked at when it was linked, and never again."""

    names_patient = False


class SearchesForAcknowledged(Rules):
    """What was acknowledged without a body is searched for, and is absent where the search does not show it."""

    def located(self, tier: Tier, link: Link, answer: Answer, now: Resources) -> Answer:
        sight = self.see(tier, link, now)
        return Answer(answer.status, *sight[1:4]) if sight and sight.many else answer

    def unlocated(self, *, update: bool) -> ErrorClass:  # noqa: ARG002 - nothing was read of either
        return ErrorClass("odd_answer", Recovery.RECONCILE)

    def answered(self, tier: Tier, asked: Asked, answer: Answer | None, now: Resources) -> ErrorClass:
        if answer is not None and answer.shows is Shows.NOTHING:
            return self.unlocated(update=asked.update)
        return super().answered(tier, asked, answer, now)


class HalfIsWhole(Rules):
    """What a part of a search does not show is not there."""

    def unseen(self, sight: Sight) -> Event | None:  # noqa: ARG002 - whole or not
        return None

    def half_seen(self) -> Event:
        return Event.ABSENT


class PageIsAnswer(Rules):
    """What a gateway says was said by the EHR."""

    def page(self, kind: error_classes.RequestKind, status: int) -> ErrorClass:
        return ErrorClass("deleted_in_ehr", Recovery.REVIEW) if kind == "read" else self.outcome(kind, status)


class BelievesRefusals(Rules):
    """What was refused was not done, and is sent again as soon as that may be."""

    def doubts_refusal(self, tier: Tier, asked: Asked) -> bool:  # noqa: ARG002 - whatever was asked of whom
        return False


class TrustsTheSecond(Rules):
    """What was changed at a time stands there unchanged as long as that time is told."""

    waits_a_second = False


class OtherTable(Rules):
    """One row of the protocol's table leads elsewhere."""

    def __init__(self, state: State, event: Event, to: State, *actions: Action) -> None:
        self._row = {(state, event): (to, actions)}

    def step(self, now: IntentState, event: Event, fence: int | None) -> tuple[IntentState, tuple[Action, ...]]:
        with patch.dict(transitions.TABLE, self._row):
            return transitions.step(now, event, fence)


@dataclass(frozen=True)
class Broken:
    name: str
    rules: Rules
    tier: Tier
    budget: Budget
    caught_by: str
    updates: bool = False
    revisions: int = 2
    lags: bool = False
    answers_us: bool = False

    def model(self, rules: Rules | None = None) -> Model:
        """``rules``: others in place of the broken ones, to see that these are at fault and not the case."""
        return Model(
            self.tier,
            bounded=True,
            budget=self.budget,
            revisions=self.revisions,
            updates=self.updates,
            lags=self.lags,
            answers_us=self.answers_us,
            rules=rules or self.rules,
        )


_CRASH = Budget(faults=1, crashes=1)
_LATE = Budget(faults=2, expiries=1, losses=1, busy=1)
_LOSS = Budget(faults=1, losses=1)
_TWICE = Budget(faults=1, duplicates=1)
_EDIT = Budget(faults=1, edits=1)
_EDITED = Budget(faults=2, edits=1, losses=1)
_MOVED = Budget(faults=1, moves=1)
_SWAP = Budget(faults=1, swaps=1)
_BARE = Budget(faults=2, bare=1, busy=1)
_CUT = Budget(faults=3, losses=1, cuts=2)
_PAGE = Budget(faults=1, pages=1)
_DENIED = Budget(faults=1, denials=1)
_SENT_FOR_UNSENT = OtherTable(State.SENDING, Event.EXPIRE, State.READY)
_SENT_AGAIN_UNSEEN = OtherTable(State.UNKNOWN, Event.CLAIM, State.LEASED, Action.LEASE)
_SUPERSEDES_UNKNOWN = OtherTable(State.UNKNOWN, Event.SUPERSEDE, State.DISCARDED, Action.LEAVE_QUEUE)
_DROPS_WHAT_FAILED = OtherTable(State.SENDING, Event.LOSE, State.DISCARDED, Action.LEAVE_QUEUE)
_NEVER_LOOKS = OtherTable(State.RECONCILING, Event.CONFIRM, State.UNKNOWN, Action.WAIT)
_LOOKS_FOR_EVER = OtherTable(State.RECONCILING, Event.REVIEW, State.UNKNOWN, Action.WAIT)

BROKEN = (
    Broken("retry on timeout", RetryOnTimeout(), SEARCH, _LOSS, "one_resource"),
    Broken("no marker", NoMarker(), SEARCH, _CRASH, "one_resource"),
    Broken("no quiet period", NoQuietPeriod(), SEARCH, _LOSS, "one_resource"),
    Broken("no fence", NoFence(), SEARCH, _LATE, "fresh_recheck"),
    Broken("412 read as conflict", ConflictWithoutLook(), ATOMIC, _TWICE, "nobody_asked_in_vain", updates=True),
    Broken("409 of a create race read as stale", RaceReadAsStale(), ATOMIC, _TWICE, "nobody_asked_in_vain", revisions=1),
    Broken("sends after its lease", NoDeadline(), SEARCH, _LATE, "fresh_recheck"),
    Broken("creates beside one in doubt", NoDoubt(), NOTHING, _LOSS, "one_resource"),
    Broken("asks for ever who does not answer", NoPatienceLimit(), BLIND, _LOSS, "every_intent_ends"),
    Broken("sends again by itself", SendsByItself(), NO_IF_MATCH, _EDITED, "person_stands", True, 1, answers_us=True),
    Broken("answers taken by their place", AnswersByPlace(), ATOMIC, _SWAP, "own_patient"),
    Broken("updates taken by their place", AnswersByPlace(), ATOMIC, _SWAP, "own_patient", updates=True),
    Broken("a link that was never looked at", AnswersByPlaceOnly(), ATOMIC, _SWAP, "nobody_asked_in_vain"),
    Broken("writes where the link says", NoLastLine(), ATOMIC, _MOVED, "own_patient", updates=True),
    Broken("acknowledged, and not found", SearchesForAcknowledged(), SEARCH, _BARE, "one_resource", lags=True),
    Broken("half a search before a create", HalfIsWhole(), SEARCH, _CUT, "one_resource"),
    Broken("a gateway's page for the EHR's answer", PageIsAnswer(), ATOMIC, _PAGE, "nobody_asked_in_vain"),
    Broken("a gateway's page for a resource", PageIsAnswer(), ATOMIC, _PAGE, "nobody_asked_in_vain", updates=True),
    Broken("takes what it sent for another's", BelievesRefusals(), BY_CONTENT, _DENIED, "ours_stays_ours", revisions=1),
    Broken("believes a refusal", BelievesRefusals(), SEARCH, _DENIED, "one_resource", revisions=1),
    Broken("trusts a time of whole seconds", TrustsTheSecond(), BY_TIME, _EDIT, "person_stands", updates=True),
    Broken("table: sent and dead is ready again", _SENT_FOR_UNSENT, SEARCH, _CRASH, "one_resource"),
    Broken("table: unknown is sent again unseen", _SENT_AGAIN_UNSEEN, NOTHING, _LOSS, "one_resource"),
    Broken("table: unknown is superseded", _SUPERSEDES_UNKNOWN, SEARCH, _LOSS, "one_resource"),
    Broken("table: a silence drops it", _DROPS_WHAT_FAILED, SEARCH, _LOSS, "nothing_lost"),
    Broken("table: found is not enough", _NEVER_LOOKS, SEARCH, _LOSS, "every_intent_ends"),
    Broken("table: what cannot be asked is asked again", _LOOKS_FOR_EVER, NOTHING, _LOSS, "every_intent_ends"),
)
