"""What was certainly not applied is tried again, when the target wants it; what can never be is kept with its answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from commit.faults import FaultyLine, Say, Seen, refusal
from commit.world import World, heart_rate, patient

from fhir_writeback_dagster.commit.limits.backoff import backoff
from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.commit.protocol.error_classes import exhausted
from fhir_writeback_dagster.errors import TargetError

AT = "2024-03-01T10:00:00Z"
NOW = datetime(2024, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_kept(faulty: World, line: FaultyLine, status: int) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", Say(status, (("Retry-After", "2"),)))
    began = time.monotonic()
    assert faulty.commit().counts["created"] == 1
    assert time.monotonic() - began >= 2
    assert faulty.rows("SELECT status, outcome FROM ledger.attempt WHERE tenant = %s ORDER BY sent_at") == [
        (status, "throttled" if status == 429 else "unavailable"),
        (201, "done"),
    ]
    assert len(faulty.in_ehr(wanted.business_key)) == 1


def test_a_long_retry_after_ends_the_run_and_waits_in_the_queue(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", Say(429, (("Retry-After", "120"),)))
    began = time.monotonic()
    report = faulty.commit()
    assert time.monotonic() - began < 30
    assert report.waiting == {"retry_wait": 1}
    ((wait,),) = faulty.rows("SELECT extract(epoch FROM not_before - now())::float8 FROM ledger.work WHERE tenant = %s")
    assert 90 < wait < 121


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (format_datetime(NOW + timedelta(seconds=30), usegmt=True), 30.0),
        (format_datetime(NOW - timedelta(seconds=30), usegmt=True), 0.0),
        ("86400", 3600.0),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_as_seconds_and_as_a_date(header: str, seconds: float | None) -> None:
    assert Answer(429, {"retry-after": header}).retry_after(NOW) == seconds


def test_backoff_grows_with_jitter_and_ends_at_five_minutes() -> None:
    for tries in range(20):
        longest = min(2**tries, 300)
        waits = {backoff(tries) for _ in range(50)}
        assert all(longest / 2 <= wait <= longest for wait in waits)
        assert len(waits) > 10


@pytest.mark.parametrize(
    ("status", "reason", "state"),
    [(400, "malformed", "quarantined"), (403, "forbidden", "quarantined"), (404, "target_gone", "quarantined"),
     (422, "unprocessable", "quarantined"), (428, "precondition_required", "quarantined"),
     (418, "refused", "quarantined")],
)  # fmt: skip
def test_what_can_never_be_sent_as_it_is_is_kept(faulty: World, line: FaultyLine, status: int, reason: str, state: str) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", refusal(status))
    faulty.commit()
    assert faulty.intents() == [(state, None, reason)]
    assert len(line.sent("POST", "Observation")) == 1
    assert faulty.owner_rows(
        "SELECT layer, code, candidate_id IS NOT NULL AND verdict_id IS NOT NULL AND record_id IS NOT NULL "
        "AND intent_id IS NOT NULL AND attempt_id IS NOT NULL FROM quarantine.item WHERE tenant = %s"
    ) == [("commit", reason, True)]


def test_a_lost_create_race_is_tried_again(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", Say(409))
    assert faulty.commit().counts["created"] == 1


def test_an_ehr_that_is_down_at_the_start_is_said_and_costs_nothing(make_world: Callable[..., World]) -> None:
    world = make_world(ehr={"base_url": "http://127.0.0.1:9/fhir"})
    world.approve(heart_rate("a", AT, 72))
    with pytest.raises(TargetError) as raised:
        world.commit()
    assert (raised.value.code, raised.value.where) == ("unreachable", "http://127.0.0.1:9/fhir")
    assert raised.value.fix
    assert world.rows("SELECT count(*) FROM decision.outbox WHERE tenant = %s") == [(1,)]


def test_an_ehr_that_goes_down_ends_the_run_before_everything_is_in_doubt(
    make_world: Callable[..., World], line: FaultyLine
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "concurrency": 2})
    world.load(*(patient(f"p{n}", f"p{n}") for n in range(30)))
    world.refresh()
    world.approve_all([heart_rate(f"p{n}", AT, 72) for n in range(30)])
    line.always("POST", "Observation", Say(503))
    report = world.commit()
    assert report.trouble
    assert len(line.sent("POST", "Observation")) == 0  # the chart could not be read, so nothing was sent
    assert world.ehr.search("Observation") == []
    assert set(report.waiting) <= {"ready", "retry_wait"}
    assert sum(report.waiting.values()) == 30
    line.rules.clear()
    world.change("UPDATE ledger.work SET not_before = now() WHERE tenant = %s")
    assert world.commit().counts["created"] == 30


def test_nothing_to_do_needs_no_ehr(make_world: Callable[..., World]) -> None:
    assert make_world(ehr={"base_url": "http://127.0.0.1:9/fhir"}).commit().counts == {}


def test_an_operation_outcome_is_read_for_its_codes_only(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72))
    outcome = {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "error", "code": "throttled", "diagnostics": "Case Test said so"}],
    }
    line.on("POST", "Observation", Say(400, (("Content-Type", "application/fhir+json"),), json.dumps(outcome).encode()))
    assert faulty.commit().counts["created"] == 1
    assert "Case Test" not in str(faulty.owner_rows("SELECT detail FROM audit.event WHERE tenant = %s"))


@pytest.mark.parametrize(
    ("outcomes", "enough"),
    [
        ([], False),
        (["server_error"], False),
        (["server_error", "server_error"], True),
        (["throttled"] * 50 + ["unavailable"] * 50 + ["server_error"], False),
        (["odd_answer", "conflict", "odd_answer", "duplicate", "conflict"], False),
        (["odd_answer"] * 3, True),
        (["no_answer", None] * 3, False),
        (["no_answer", None] * 4, True),
    ],
)
def test_tries_are_counted_by_what_became_of_them(outcomes: list[str | None], enough: bool) -> None:
    assert exhausted(outcomes) is enough


def test_a_read_that_fails_uses_up_no_try_of_the_write(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", *[Say(503, (("Retry-After", "0"),))] * 2)
    seen: list[None] = []

    def third_look(request: Seen) -> Say | None:
        if not request.path.startswith("Observation/_search"):
            return None
        seen.append(None)
        return Say(500) if len(seen) == 3 else None

    line.rules.append(third_look)
    faulty.commit()
    faulty.change("UPDATE ledger.work SET not_before = now() WHERE tenant = %s")  # the wait by jitter may have outlived the run
    faulty.commit()
    assert len(seen) >= 3
    assert faulty.intents() == [("committed", "created", None)]
