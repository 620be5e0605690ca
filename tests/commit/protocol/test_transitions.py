"""The protocol's table and the taxonomy, as far as single steps show them; every sequence of them is in `tests/protocol`."""

from __future__ import annotations

from pathlib import Path

import pytest

from fhir_writeback_dagster.commit.adapters.search import if_none_exist
from fhir_writeback_dagster.commit.protocol import describe, error_classes
from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.commit.protocol.error_classes import Recovery, RequestKind, classify, is_gateways
from fhir_writeback_dagster.commit.protocol.transitions import ENDS, TABLE, Action, Event, IntentState, State, moves, step

DOCUMENT = Path(__file__).parents[3] / "docs" / "protocol.md"


def test_there_is_one_way_into_sending() -> None:
    assert [edge for edge, (to, _) in TABLE.items() if to is State.SENDING] == [(State.LEASED, Event.PASSED)]
    assert [edge for edge, (_, actions) in TABLE.items() if Action.TRANSMIT in actions] == [(State.LEASED, Event.PASSED)]


def test_what_may_have_been_sent_is_claimed_only_to_be_looked_up() -> None:
    assert moves(Event.CLAIM) == {
        State.READY: State.LEASED,
        State.RETRY_WAIT: State.LEASED,
        State.UNKNOWN: State.RECONCILING,
        State.PENDING_TARGET: State.RECONCILING,
    }
    assert moves(Event.EXPIRE)[State.SENDING] is State.UNKNOWN
    assert set(moves(Event.SUPERSEDE)) == {State.READY, State.LEASED, State.RETRY_WAIT}


def test_every_state_that_is_no_end_can_be_left_and_an_end_only_by_a_new_verdict_or_towards_one() -> None:
    left = {state for state, _ in TABLE}
    assert set(State) - left == ENDS - {State.WITHDRAWN, State.QUARANTINED}
    assert [event for state, event in TABLE if state is State.WITHDRAWN] == [Event.REOPEN]
    assert moves(Event.RELEASE) == {State.QUARANTINED: State.WITHDRAWN}


def test_step_is_total() -> None:
    for state in State:
        for event in Event:
            now = IntentState(state, 3)
            after, actions = step(now, event, 3)
            assert (after == now and not actions) == ((state, event) not in TABLE)


def test_the_fence_rises_with_each_claim_and_each_expired_lease() -> None:
    claimed, _ = step(IntentState(), Event.CLAIM)
    expired, _ = step(claimed, Event.EXPIRE)
    assert (claimed.fence, expired.fence) == (1, 2)


def test_a_lost_answer_is_remembered() -> None:
    lost, actions = step(IntentState(State.SENDING, 1), Event.LOSE, 1)
    assert (lost.state, lost.unanswered, actions) == (State.UNKNOWN, True, (Action.WAIT,))
    again, _ = step(IntentState(State.RECONCILING, 2, unanswered=True), Event.ABSENT, 2)
    assert again.unanswered


def test_what_was_accepted_for_mediation_is_never_sent_again() -> None:
    accepted, _ = step(IntentState(State.SENDING, 1), Event.ACCEPT, 1)
    looking, _ = step(accepted, Event.CLAIM)
    absent, actions = step(looking, Event.ABSENT, looking.fence)
    assert (absent.state, actions) == (State.PENDING_TARGET, (Action.WAIT,))


@pytest.mark.parametrize(
    ("request_kind", "status", "code", "recovery"),
    [
        ("conditional_create", 201, "done", Recovery.CONFIRM),
        ("conditional_create", 200, "existed", Recovery.COMPARE),
        ("create", 200, "done", Recovery.CONFIRM),
        ("update", 200, "done", Recovery.CONFIRM),
        ("update", 204, "done", Recovery.CONFIRM),
        ("create", 202, "accepted", Recovery.POLL),
        ("create", 307, "gateway", Recovery.RECONCILE),
        ("update", 401, "token_refused", Recovery.REFRESH_TOKEN),
        ("create", 403, "forbidden", Recovery.ESCALATE),
        ("conditional_create", 409, "create_race", Recovery.RETRY),
        ("create", 409, "conflict", Recovery.RECONCILE),
        ("update", 409, "conflict", Recovery.RECONCILE),
        ("update", 412, "conflict", Recovery.RECONCILE),
        ("conditional_create", 412, "several_matches", Recovery.REVIEW),
        ("update", 404, "missing_in_ehr", Recovery.REREAD),
        ("update", 410, "deleted_in_ehr", Recovery.REREAD),
        ("conditional_create", 410, "target_gone", Recovery.QUARANTINE),
        ("update", 422, "unprocessable", Recovery.REREAD),
        ("conditional_create", 422, "unprocessable", Recovery.QUARANTINE),
        ("create", 428, "precondition_required", Recovery.QUARANTINE),
        ("create", 429, "throttled", Recovery.WAIT),
        ("create", 500, "server_error", Recovery.RECONCILE),
        ("create", 503, "no_answer", Recovery.RECONCILE),
        ("create", 504, "no_answer", Recovery.RECONCILE),
        ("read", 503, "server_error", Recovery.RETRY),
        ("create", 100, "odd_answer", Recovery.RECONCILE),
        ("create", 799, "odd_answer", Recovery.RECONCILE),
    ],
)
def test_an_answer_is_read_with_its_request(request_kind: RequestKind, status: int, code: str, recovery: Recovery) -> None:
    outcome = classify(request_kind, Answer(status, parsed=None if status < 300 else {"resourceType": "OperationOutcome"}))
    assert (outcome.code, outcome.recovery) == (code, recovery)


PAGE, OWN_JSON = b"<html></html>", b'{"errormessage": "no"}'


@pytest.mark.parametrize(
    ("status", "body", "plain", "gateways"),
    [
        (200, PAGE, False, True),
        (201, b"", False, False),
        (302, b"", False, True),
        (400, b"", False, True),
        (403, PAGE, False, True),
        (404, OWN_JSON, False, True),
        (404, OWN_JSON, True, False),
        (404, PAGE, True, True),
        (410, b"", False, False),
        (410, PAGE, False, True),
        (401, PAGE, False, False),
        (412, b"", False, False),
        (429, PAGE, False, False),
        (502, PAGE, False, False),
    ],
)
def test_what_is_no_fhir_answer_is_the_gateways(status: int, body: bytes, plain: bool, gateways: bool) -> None:
    assert is_gateways(Answer(status, body=body), plain=plain) is gateways
    assert not is_gateways(Answer(status, body=body, inner=True), plain=plain), "an entry's answer is the EHR's own"


@pytest.mark.parametrize(
    ("request_kind", "status", "issue", "code"),
    [
        ("create", 400, "duplicate", "duplicate"),
        ("update", 400, "duplicate", "malformed"),
        ("update", 409, "lock-error", "busy"),
        ("create", 403, "throttled", "throttled"),
        ("create", 422, "not a code", "unprocessable"),
    ],
)
def test_an_answer_is_read_with_its_codes(request_kind: RequestKind, status: int, issue: str, code: str) -> None:
    body = {"resourceType": "OperationOutcome", "issue": [{"code": issue}, "nonsense", {"details": {"coding": [7]}}]}
    assert classify(request_kind, Answer(status, parsed=body)).code == code


def test_every_status_of_every_request_has_one_recovery() -> None:
    for request_kind in ("create", "conditional_create", "update", "read"):
        for status in range(100, 600):
            outcome = classify(request_kind, Answer(status))
            assert outcome.recovery in Recovery
            if 200 <= status < 300:
                assert outcome.recovery in (Recovery.CONFIRM, Recovery.COMPARE, Recovery.POLL)


def test_a_503_with_retry_after_was_not_begun() -> None:
    assert classify("create", Answer(503, {"retry-after": "3"})).recovery is Recovery.WAIT


def test_silence_is_unknown_only_where_something_may_have_left() -> None:
    assert error_classes.unanswered_outcome("create", sent=True).recovery is Recovery.RECONCILE
    assert error_classes.unanswered_outcome("create", sent=False).recovery is Recovery.RETRY
    assert error_classes.unanswered_outcome("read", sent=True).recovery is Recovery.RETRY


def test_special_characters_are_escaped_and_encoded_once() -> None:
    assert if_none_exist("urn:x|y", "a,b$c\\d e") == "identifier=urn%3Ax%5C%7Cy%7Ca%5C%2Cb%5C%24c%5C%5Cd%20e"


def test_the_document_shows_the_protocol_as_it_is() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert describe.renew(text) == text, "python -m fhir_writeback_dagster.commit.protocol.describe docs/protocol.md"
