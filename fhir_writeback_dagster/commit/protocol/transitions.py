"""The life of a write intent as a pure function: ``step(state, event) -> (state, actions)``.

Read TABLE; it is the whole protocol. What cannot be seen there is said here:

* There is **one edge into** ``sending``: ``PASSED``, which only the gate produces, in the transaction that has just re-checked
  verdict, consent, policy, patient and revision, and that commits the send marker. The request leaves after that commit.
* Whoever holds an intent holds its **fence**: a claim and an expired lease raise it, so an event of an earlier holder
  changes nothing. Events that mean nothing in a state (late, repeated, out of order) change nothing either: ``step`` is total.
* ``unanswered`` stays true from the first send after which nobody could tell whether it was applied: what the chart shows
  from then on may be our own.
* ``accepted`` (a 202) keeps a mediated submission from ever being sent again: the target owes us a decision.

The ledger writes what ``step`` says (`commit.ledger`); nothing else writes a state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class State(StrEnum):
    READY = "ready"
    LEASED = "leased"
    SENDING = "sending"
    RETRY_WAIT = "retry_wait"
    UNKNOWN = "unknown"
    RECONCILING = "reconciling"
    PENDING_TARGET = "pending_target"
    COMMITTED = "committed"
    QUARANTINED = "quarantined"
    IN_REVIEW = "in_review"
    WITHDRAWN = "withdrawn"
    DISCARDED = "discarded"


class Event(StrEnum):
    """What can happen. The first four come from the ledger itself, the others from the worker that holds the fence."""

    CLAIM = "a worker takes it"
    EXPIRE = "its lease ran out"
    SUPERSEDE = "a newer revision of the same fact was accepted"
    RELEASE = "a person lets go what was given up"
    REOPEN = "decide made a new verdict"
    STOP = "its worker gives it back untouched"
    PASSED = "the re-check passed and the send marker is written"
    SETTLED = "the chart says it already: nothing to send"
    WITHDRAW = "its verdict no longer stands"
    REVIEW = "a person has to decide"
    REFUSE = "it can never be sent as it is"
    RETRY = "it was certainly not applied; later again"
    CONFIRM = "it stands in the EHR and was recognised"
    ACCEPT = "the EHR took it for mediation (202)"
    LOSE = "it may or may not have been applied"
    ABSENT = "a look after the quiet period did not find it"


class Action(StrEnum):
    """What goes with a step, in the same transaction; TRANSMIT and LOOK follow when that has committed."""

    LEASE = "hold it for a while"
    TRANSMIT = "send the request, once"
    LOOK = "search and read the target"
    WAIT = "do not touch it before the named time"
    LINK = "remember the resource that it became"
    OPEN_REVIEW = "open a review task"
    OPEN_QUARANTINE = "open a quarantine item"
    RETURN = "put the candidate before decide again"
    JOIN_QUEUE = "put it into the queue"
    LEAVE_QUEUE = "take it out of the queue"


@dataclass(frozen=True, slots=True)
class IntentState:
    """All of an intent that the protocol looks at."""

    state: State = State.READY
    fence: int = 0
    unanswered: bool = False
    accepted: bool = False


_S, _E, _A = State, Event, Action
_END_COMMITTED = (_S.COMMITTED, (_A.LINK, _A.LEAVE_QUEUE))
_END_QUARANTINED = (_S.QUARANTINED, (_A.OPEN_QUARANTINE, _A.LEAVE_QUEUE))
_END_IN_REVIEW = (_S.IN_REVIEW, (_A.OPEN_REVIEW, _A.LEAVE_QUEUE))
_END_WITHDRAWN = (_S.WITHDRAWN, (_A.RETURN, _A.LEAVE_QUEUE))
_END_DISCARDED = (_S.DISCARDED, (_A.LEAVE_QUEUE,))
_WAIT = (_A.WAIT,)

TABLE: dict[tuple[State, Event], tuple[State, tuple[Action, ...]]] = {
    (_S.READY, _E.CLAIM): (_S.LEASED, (_A.LEASE,)),
    (_S.READY, _E.SUPERSEDE): _END_DISCARDED,
    (_S.LEASED, _E.PASSED): (_S.SENDING, (_A.LEASE, _A.TRANSMIT)),
    (_S.LEASED, _E.SETTLED): _END_COMMITTED,
    (_S.LEASED, _E.WITHDRAW): _END_WITHDRAWN,
    (_S.LEASED, _E.REVIEW): _END_IN_REVIEW,
    (_S.LEASED, _E.REFUSE): _END_QUARANTINED,
    (_S.LEASED, _E.RETRY): (_S.RETRY_WAIT, _WAIT),
    (_S.LEASED, _E.STOP): (_S.READY, ()),
    (_S.LEASED, _E.EXPIRE): (_S.READY, ()),
    (_S.LEASED, _E.SUPERSEDE): _END_DISCARDED,
    (_S.SENDING, _E.CONFIRM): _END_COMMITTED,
    (_S.SENDING, _E.ACCEPT): (_S.PENDING_TARGET, _WAIT),
    (_S.SENDING, _E.RETRY): (_S.RETRY_WAIT, _WAIT),
    (_S.SENDING, _E.REVIEW): _END_IN_REVIEW,
    (_S.SENDING, _E.REFUSE): _END_QUARANTINED,
    (_S.SENDING, _E.LOSE): (_S.UNKNOWN, _WAIT),
    (_S.SENDING, _E.EXPIRE): (_S.UNKNOWN, _WAIT),
    (_S.RETRY_WAIT, _E.CLAIM): (_S.LEASED, (_A.LEASE,)),
    (_S.RETRY_WAIT, _E.SUPERSEDE): _END_DISCARDED,
    (_S.UNKNOWN, _E.CLAIM): (_S.RECONCILING, (_A.LEASE, _A.LOOK)),
    (_S.PENDING_TARGET, _E.CLAIM): (_S.RECONCILING, (_A.LEASE, _A.LOOK)),
    (_S.RECONCILING, _E.CONFIRM): _END_COMMITTED,
    (_S.RECONCILING, _E.ABSENT): (_S.LEASED, (_A.LEASE,)),
    (_S.RECONCILING, _E.REVIEW): _END_IN_REVIEW,
    (_S.RECONCILING, _E.LOSE): (_S.UNKNOWN, _WAIT),
    (_S.RECONCILING, _E.STOP): (_S.UNKNOWN, ()),
    (_S.RECONCILING, _E.EXPIRE): (_S.UNKNOWN, _WAIT),
    (_S.QUARANTINED, _E.RELEASE): (_S.WITHDRAWN, (_A.RETURN,)),
    (_S.WITHDRAWN, _E.REOPEN): (_S.READY, (_A.JOIN_QUEUE,)),
}

ENDS = frozenset(state for state, actions in TABLE.values() if _A.LEAVE_QUEUE in actions)
"""States in which an intent has left the queue."""

_RAISES_FENCE = {_E.CLAIM, _E.EXPIRE}
_FROM_HOLDER = frozenset(_E) - {_E.CLAIM, _E.EXPIRE, _E.SUPERSEDE, _E.REOPEN, _E.RELEASE}


def step(now: IntentState, event: Event, fence: int | None = None) -> tuple[IntentState, tuple[Action, ...]]:
    """What ``event`` makes of ``now``; an event that means nothing here, or of a stale ``fence``, gives ``(now, ())``.

    :param fence: the fence that the speaker holds; the ledger's own events need none. At the gate a holder may tell SUPERSEDE
        too, and then under its fence.
    """
    if fence != now.fence and (fence is not None or event in _FROM_HOLDER):
        return now, ()
    if (now.state, event) not in TABLE:
        return now, ()
    state, actions = TABLE[now.state, event]
    if event is _E.ABSENT and now.accepted:
        state, actions = _S.PENDING_TARGET, _WAIT
    return (
        replace(
            now,
            state=state,
            fence=now.fence + 1 if event in _RAISES_FENCE else now.fence,
            unanswered=now.unanswered or (now.state is _S.SENDING and state is _S.UNKNOWN),
            accepted=now.accepted or event is _E.ACCEPT,
        ),
        actions,
    )


def moves(event: Event) -> dict[State, State]:
    """From which states ``event`` leads where: what a set-based statement over many intents is given."""
    return {state: TABLE[state, event][0] for state in State if (state, event) in TABLE}


def diagram() -> str:
    """TABLE as a Mermaid state diagram, for `docs/protocol.md`."""
    lines = ["stateDiagram-v2", "    [*] --> ready"]
    lines += [f"    {state} --> {to}: {event.name}" for (state, event), (to, _) in TABLE.items()]
    lines.append(f"    {State.RECONCILING} --> {State.PENDING_TARGET}: ABSENT, accepted")
    lines += [f"    {state} --> [*]" for state in sorted(ENDS) if state is not State.WITHDRAWN]
    return "\n".join(lines)
