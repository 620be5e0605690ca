"""What can become of an intent, and the step in the ledger that this is.

Whatever the engine learns (an adapter's plan, the re-check's objection, the EHR's answer, what the reconciler found) ends as
one of the results below. Each holds what the ledger keeps of its kind and nothing else, so that a change which the ledger
would refuse (a review with an outcome, a commit without one) cannot be written down. :func:`at_gate`, :func:`after_answer`
and :func:`after_look` take only what can happen in the state that they start from. Nothing else makes a :class:`Change`.

Reasons and evidence are codes, ids and names of elements, never a value of a patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from fhir_writeback_dagster.commit.protocol.model import Attempt, Intent, Standing
from fhir_writeback_dagster.commit.protocol.transitions import Action, Event, IntentState, State, step

WriteOutcome = Literal["created", "updated", "suppressed", "reconciled"]
"""How an intent can be committed."""
UndoneState = Literal["retracted", "deleted"]
"""What a person can have done in the EHR to a resource of ours."""
Evidence = Mapping[str, Any]
Reads = Literal["done", "failed", "unmade"]
"""What became of the reads that an intent needs. The time since the first of a row of ``failed`` ones counts towards a person
(`ehr.refused_ttl`); ``unmade`` says nothing.
"""


@dataclass(frozen=True, slots=True)
class Passed:
    """The re-check passed. The request of ``attempt`` leaves once this is committed."""

    event: ClassVar = Event.PASSED
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Settled:
    """Nothing is to be sent: ``standing`` says it already."""

    event: ClassVar = Event.SETTLED
    outcome: WriteOutcome
    reason: str
    standing: Standing


@dataclass(frozen=True, slots=True)
class Confirmed:
    """It stands in the EHR as ``standing``, and was recognised."""

    event: ClassVar = Event.CONFIRM
    outcome: WriteOutcome
    standing: Standing
    reason: str | None = None
    evidence: Evidence = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The target took it for mediation (202), and is asked after ``wait_s``."""

    event: ClassVar = Event.ACCEPT
    reason: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class Absent:
    """A complete look did not find it: it goes to the gate again, or, where it was accepted, is asked for after ``wait_s``."""

    event: ClassVar = Event.ABSENT
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Lost:
    """Nobody knows whether it was applied; it is looked up after ``wait_s``."""

    event: ClassVar = Event.LOSE
    reason: str
    wait_s: float
    reads: Reads = "done"


@dataclass(frozen=True, slots=True)
class Retry:
    """It was certainly not applied, and is tried again after ``wait_s``."""

    event: ClassVar = Event.RETRY
    reason: str
    wait_s: float
    reads: Reads = "done"


@dataclass(frozen=True, slots=True)
class Stop:
    """It is given back untouched; ``reason`` is what the intent keeps."""

    event: ClassVar = Event.STOP
    reason: str | None


@dataclass(frozen=True, slots=True)
class Review:
    """A person decides. ``undone``: the linked resource is, by a person in the EHR."""

    event: ClassVar = Event.REVIEW
    reason: str
    evidence: Evidence = field(default_factory=dict)
    undone: UndoneState | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """It can never be sent as it is: quarantine. ``standing``: what stands in the EHR all the same (a field was lost)."""

    event: ClassVar = Event.REFUSE
    reason: str
    evidence: Evidence = field(default_factory=dict)
    standing: Standing | None = None


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Its verdict no longer stands: decide looks at it again."""

    event: ClassVar = Event.WITHDRAW
    reason: str


@dataclass(frozen=True, slots=True)
class Supersede:
    """A newer statement of the same fact takes its place, or there is nothing to be said any more."""

    event: ClassVar = Event.SUPERSEDE
    reason: str


AtGate = Passed | Settled | Retry | Stop | Review | Refuse | Withdraw | Supersede
"""What can become of an intent that is ``leased``."""
AfterAnswer = Confirmed | Accepted | Lost | Retry | Review | Refuse
"""What can become of one that is ``sending``."""
AfterLook = Confirmed | Absent | Lost | Stop | Review
"""What can become of one that is ``reconciling``."""


@dataclass(frozen=True, slots=True)
class Change:
    """One step of one intent with all that is written with it. ``attempt``: the request that it is about."""

    intent: Intent
    result: AtGate | AfterAnswer | AfterLook
    before: IntentState
    after: IntentState
    actions: tuple[Action, ...]
    attempt: Attempt | None = None

    @property
    def outcome(self) -> WriteOutcome | None:
        return self.result.outcome if isinstance(self.result, (Settled, Confirmed)) else None

    @property
    def reason(self) -> str | None:
        return self.intent.reason if isinstance(self.result, Absent) else getattr(self.result, "reason", None)

    @property
    def wait_s(self) -> float:
        return self.result.wait_s if isinstance(self.result, (Accepted, Absent, Lost, Retry)) else 0.0

    @property
    def reads(self) -> Reads:
        if isinstance(self.result, Stop):
            return "unmade"
        return self.result.reads if isinstance(self.result, (Lost, Retry)) else "done"

    @property
    def standing(self) -> Standing | None:
        return self.result.standing if isinstance(self.result, (Settled, Confirmed, Refuse)) else None

    @property
    def undone(self) -> UndoneState | None:
        return self.result.undone if isinstance(self.result, Review) else None

    @property
    def evidence(self) -> Evidence:
        return self.result.evidence if isinstance(self.result, (Confirmed, Review, Refuse)) else {}


def at_gate(intent: Intent, result: AtGate) -> Change | None:
    """The step of an intent that is ``leased``; None: it is held by somebody else by now, or has ended."""
    return _change(intent, result, result.attempt if isinstance(result, Passed) else None)


def after_answer(intent: Intent, result: AfterAnswer, attempt: Attempt) -> Change | None:
    """The step of an intent that is ``sending``: what became of ``attempt``."""
    return _change(intent, result, attempt)


def after_look(intent: Intent, result: AfterLook) -> Change | None:
    """The step of an intent that is ``reconciling``."""
    return _change(intent, result, None)


def after_defect(intent: Intent, evidence: Evidence, quiet_s: float, attempt: Attempt | None = None) -> Change | None:
    """The step of an intent that a defect of ours stopped, from whatever state it is held in; of ``attempt`` only that it was.

    A person gets it, but for one that is ``sending``: that is looked for first, or its next revision would be sent as if nothing
    of it could stand in the EHR.
    """
    bare = replace(attempt, outcome="defect", answer=b"", ehr_request_id=None) if attempt else None
    sending = intent.now.state is State.SENDING
    return _change(intent, Lost("defect", quiet_s) if sending else Review("defect", evidence), bare)


def _change(intent: Intent, result: AtGate | AfterAnswer | AfterLook, attempt: Attempt | None) -> Change | None:
    after, actions = step(intent.now, result.event, intent.now.fence)
    return None if after == intent.now and not actions else Change(intent, result, intent.now, after, actions, attempt)
