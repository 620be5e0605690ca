"""What an answer means and the one thing to do about it.

An answer is read with the request that it answers and with its OperationOutcome's codes, never by its status alone. A 409 is a
lost race on a create and a stale version on an update. A stale version (409, 412) may be our own doing — an earlier attempt
that had no answer, or a proxy that sent a PUT twice (RFC 9110, 9.2.2 lets it) — so it is looked into before it is called a
conflict. A timeout on a write is *unknown* and never a failure. What is no FHIR at all, such as a gateway's 404 or the 200 of a
login page, is nobody's word about the write (:func:`is_gateways`). TABLE is read from the top; the first row that fits decides.

Sources: FHIR R4 http.html (create, update, conditional create), RFC 9110, and what the vendors' servers answered when asked
(`docs/compatibility.md` names each).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.commit.protocol.rights import lacks_scope
from fhir_writeback_dagster.commit.protocol.transitions import Event

RequestKind = Literal["create", "conditional_create", "update", "read"]
"""`create` has no precondition that makes it safe to repeat, `conditional_create` has; `read` is any read or search."""


class Recovery(StrEnum):
    """One a class; what the engine does next."""

    CONFIRM = "recognise what stands there, then record it"
    COMPARE = "it was there already: compare before calling it ours"
    POLL = "wait for the target's decision"
    RETRY = "later again, with backoff and jitter"
    WAIT = "later again, when the target says"
    REFRESH_TOKEN = "one new token, same attempt"  # noqa: S105 - not a password
    RECONCILE = "look whether it was applied, before anything is sent"
    REREAD = "read what stands there: is it at fault, or our request?"
    QUARANTINE = "keep it with its answer until somebody fixes it"
    REVIEW = "a person decides"
    ESCALATE = "keep it, and tell the operators: configuration or rights are wrong"


@dataclass(frozen=True, slots=True)
class ErrorClass:
    """A class of the taxonomy: its code (what people and metrics see) and its recovery."""

    code: str
    recovery: Recovery

    @property
    def event(self) -> Event:
        """What it is to the protocol, for an intent that is ``sending``."""
        return _EVENTS[self.recovery]

    @property
    def quiet(self) -> bool:
        """Must the target be left alone before it is looked up? Not where it has answered that it did nothing now."""
        return self.recovery is Recovery.RECONCILE and self.code not in _ANSWERED


_ANSWERED = frozenset({"conflict", "duplicate"})

_EVENTS = {
    Recovery.CONFIRM: Event.CONFIRM,
    Recovery.COMPARE: Event.CONFIRM,
    Recovery.POLL: Event.ACCEPT,
    Recovery.RETRY: Event.RETRY,
    Recovery.WAIT: Event.RETRY,
    Recovery.REFRESH_TOKEN: Event.RETRY,
    Recovery.RECONCILE: Event.LOSE,
    Recovery.REREAD: Event.RETRY,
    Recovery.QUARANTINE: Event.REFUSE,
    Recovery.REVIEW: Event.REVIEW,
    Recovery.ESCALATE: Event.REFUSE,
}

WRITES: frozenset[RequestKind] = frozenset({"create", "conditional_create", "update"})
CREATES: frozenset[RequestKind] = frozenset({"create", "conditional_create"})
_CONDITIONAL: frozenset[RequestKind] = frozenset({"conditional_create"})
_UPDATE: frozenset[RequestKind] = frozenset({"update"})
_READ: frozenset[RequestKind] = frozenset({"read"})
ANY: frozenset[RequestKind] = WRITES | _READ


@dataclass(frozen=True, slots=True)
class ClassRule:
    """``status`` is inclusive; ``codes``: at least one must be among the OperationOutcome's (empty: any answer fits)."""

    status: tuple[int, int]
    requests: frozenset[RequestKind]
    outcome: ErrorClass
    codes: frozenset[str] = frozenset()
    retry_after: bool | None = None
    lacks_scope: bool = False
    """Only a refusal that says that the token's scopes do not reach so far."""


def _row(  # noqa: PLR0913 - a row of the table, by name
    status: int | tuple[int, int],
    requests: frozenset[RequestKind],
    code: str,
    recovery: Recovery,
    *,
    codes: tuple[str, ...] = (),
    retry_after: bool | None = None,
    lacks_scope: bool = False,
) -> ClassRule:
    span = status if isinstance(status, tuple) else (status, status)
    return ClassRule(span, requests, ErrorClass(code, recovery), frozenset(codes), retry_after, lacks_scope)


NOT_SENT = ErrorClass("unreachable", Recovery.RETRY)
"""No connection was made: not a byte of the request left."""
NO_ANSWER = ErrorClass("no_answer", Recovery.RECONCILE)
NO_READ = ErrorClass("no_answer", Recovery.RETRY)
_ODD = ErrorClass("odd_answer", Recovery.RECONCILE)
_ODD_READ = ErrorClass("odd_answer", Recovery.RETRY)

TOKEN_REFUSED = "token_refused"  # noqa: S105 - a class of answers
"""A fresh token was refused too: after some tries that is a matter of rights, and a person's."""
LACKS_SCOPE = "insufficient_scope"
GATEWAY = ErrorClass("gateway", Recovery.RECONCILE)
_GATEWAY_READ = ErrorClass("gateway", Recovery.RETRY)
"""Something answered in the EHR's place: it may never have seen the request, or have acted on it."""
GATEWAY_TRIES = 12
"""So often a write meets the gateway until it is given up: where the others go on, it is this very text that is disliked."""
MISSING = "missing_in_ehr"
"""What we wrote is not found there. One such answer is no deletion: it is asked again later."""

_R = Recovery
TABLE: tuple[ClassRule, ...] = (
    _row(200, _CONDITIONAL, "existed", _R.COMPARE),
    _row(202, WRITES, "accepted", _R.POLL),
    _row((200, 299), ANY, "done", _R.CONFIRM),
    _row((300, 399), ANY, "redirected", _R.ESCALATE),
    _row(401, ANY, LACKS_SCOPE, _R.REVIEW, lacks_scope=True),
    _row(403, ANY, LACKS_SCOPE, _R.REVIEW, lacks_scope=True),
    _row(401, ANY, TOKEN_REFUSED, _R.REFRESH_TOKEN),
    _row((400, 499), ANY, "throttled", _R.WAIT, codes=("throttled",)),
    _row((400, 499), ANY, "busy", _R.RETRY, codes=("lock-error", "transient")),
    _row(403, ANY, "forbidden", _R.ESCALATE),
    _row(404, CREATES, "target_gone", _R.QUARANTINE),
    _row(410, CREATES, "target_gone", _R.QUARANTINE),
    _row(404, _UPDATE, MISSING, _R.REREAD),
    _row(410, _UPDATE, "deleted_in_ehr", _R.REREAD),
    _row(408, WRITES, "no_answer", _R.RECONCILE),
    _row(409, _UPDATE, "conflict", _R.RECONCILE),
    _row(409, _CONDITIONAL, "create_race", _R.RETRY),
    _row(409, CREATES, "conflict", _R.RECONCILE),
    _row(412, _UPDATE, "conflict", _R.RECONCILE),
    _row(412, CREATES, "several_matches", _R.REVIEW),
    _row(423, ANY, "busy", _R.RETRY),
    _row(425, ANY, "busy", _R.RETRY),
    _row((400, 499), CREATES, "duplicate", _R.RECONCILE, codes=("duplicate",)),
    _row(429, ANY, "throttled", _R.WAIT),
    _row(428, ANY, "precondition_required", _R.QUARANTINE),
    # Servers that try the patch before the precondition say so where a `test` fails, because somebody was faster.
    _row(422, _UPDATE, "unprocessable", _R.REREAD),
    _row(400, _UPDATE, "malformed", _R.REREAD),
    _row(422, ANY, "unprocessable", _R.QUARANTINE),
    _row(400, ANY, "malformed", _R.QUARANTINE),
    _row((400, 499), ANY, "refused", _R.QUARANTINE),
    _row(503, ANY, "unavailable", _R.WAIT, retry_after=True),
    _row((500, 599), _READ, "server_error", _R.RETRY),
    _row(500, WRITES, "server_error", _R.RECONCILE),
    _row((500, 599), WRITES, "no_answer", _R.RECONCILE),
)


_CLEAR = frozenset({401, 408, 409, 412, 423, 425, 428, 429})
"""Statuses that say enough without an OperationOutcome: what follows from them is waiting, a new token, or a look."""


def is_gateways(answer: Answer, *, plain: bool = False) -> bool:
    """Did something that stands in front of the EHR answer in its place? That is evidence about the way, and about nothing else.

    FHIR answers with a resource, and an error with an OperationOutcome (R4, http.html); a 410 may be empty, and so may a success.
    A redirect is never the EHR's. What names a scheme of authorization speaks of rights (RFC 6750, 3).

    :param plain: this vendor's errors are JSON of its own, as its matrix says (``answers.outcomes``).
    """
    if answer.inner or answer.status in _CLEAR or "www-authenticate" in answer.headers:
        return False
    has_body = bool(answer.body)
    if 200 <= answer.status < 300:
        return has_body and answer.json() is None
    if 300 <= answer.status < 400:
        return True
    if not 400 <= answer.status < 500 or (answer.status == 410 and not has_body):
        return False
    found = answer.resource()
    outcome = found is not None and found["resourceType"] == "OperationOutcome"
    return not outcome and not (plain and answer.json() is not None)


def classify(request: RequestKind, answer: Answer, *, plain: bool = False) -> ErrorClass:
    """The class of ``answer``; ``plain`` as in :func:`is_gateways`."""
    if is_gateways(answer, plain=plain):
        return _GATEWAY_READ if request == "read" else GATEWAY
    codes = None
    for row in TABLE:
        if not (row.status[0] <= answer.status <= row.status[1] and request in row.requests):
            continue
        if row.retry_after is not None and row.retry_after != answer.says_when:
            continue
        if row.lacks_scope and not lacks_scope(answer):
            continue
        if row.codes:
            codes = answer.codes() if codes is None else codes
            if not row.codes & codes:
                continue
        return row.outcome
    return _ODD_READ if request == "read" else _ODD


def unanswered_outcome(request: RequestKind, *, sent: bool) -> ErrorClass:
    """The class of a request that got no answer; ``sent``: a byte of it may have left."""
    if not sent:
        return NOT_SENT
    return NO_READ if request == "read" else NO_ANSWER


_TRIES = {TOKEN_REFUSED: 5, "server_error": 2, "odd_answer": 3, "duplicate": 3, "conflict": 3}
_PATIENT = frozenset({"bundle_refused", "gateway", "unreachable", "unavailable", "throttled", "too_late", "tls_failed"})
MOST_TRIES = 8


def exhausted(outcomes: Sequence[str | None]) -> bool:
    """Was an intent sent so often in vain that a person has to look at it? A 500, for one, may be permanent.

    :param outcomes: the classes of its attempts. Those that the target did not take up at all (it is down, or asks us to wait)
        do not count, nor does anything that went wrong with a read.
    """
    counted = Counter(code for code in outcomes if code not in _PATIENT)
    return counted.total() >= MOST_TRIES or any(counted[code] >= most for code, most in _TRIES.items())
