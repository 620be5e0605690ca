"""A write without an answer is looked up, never sent blindly again; what was applied is recognised as ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commit.faults import FaultyLine, First, LoseAnswer, LoseRequest, Say, Twist
from commit.world import World, heart_rate, patient

from fhir_writeback_dagster.commit.ledger.intents import reap
from fhir_writeback_dagster.rules.target import matrix

AT = "2024-03-01T10:00:00Z"


def test_a_lost_answer_makes_no_second_resource(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", LoseAnswer())
    report = faulty.commit()
    assert (report.counts["unknown"], report.counts["reconciled"]) == (1, 1)
    assert len(faulty.in_ehr(wanted.business_key)) == 1
    assert len(line.sent("POST", "Observation")) == 1
    assert faulty.intents() == [("committed", "reconciled", "found")]


def test_a_lost_request_is_sent_again_only_after_the_quiet_period_and_a_look(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", LoseRequest())
    report = faulty.commit()
    assert (report.counts["unknown"], report.counts["created"]) == (1, 1)
    assert len(faulty.in_ehr(wanted.business_key)) == 1
    paths = [seen.path for seen in line.seen if seen.method == "POST" and seen.path.startswith("Observation")]
    # chart, lost send, look by identifier, look into the chart, and only then again
    assert paths[:2] == ["Observation/_search", "Observation"]
    assert paths.index("Observation", 2) >= 4


def test_nothing_is_looked_up_before_the_quiet_period_is_over(make_world: Callable[..., World], line: FaultyLine) -> None:
    world = make_world(ehr={"base_url": line.base_url, "quiet": "1h"})
    world.load(patient("a", "a"))
    world.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", LoseRequest())
    assert world.commit().waiting == {"unknown": 1}
    before = len(line.seen)
    assert world.commit().waiting == {"unknown": 1}
    assert [seen.path for seen in line.seen[before:] if seen.path.startswith("Observation")] == []


def test_the_quiet_period_is_no_shorter_than_the_lag_of_the_vendors_searches(
    make_world: Callable[..., World], line: FaultyLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = (matrix.VENDORS / "generic.yaml").read_text()
    laggy = plain.replace("vendor: generic", "vendor: laggy").replace("search_lag_s: {value: 0,", "search_lag_s: {value: 3600,")
    assert "3600" in laggy
    (tmp_path / "laggy.yaml").write_text(laggy)
    monkeypatch.setattr(matrix, "VENDORS", tmp_path)
    world = make_world(ehr={"base_url": line.base_url, "vendor": "laggy", "quiet": "0s"})
    rests = "SELECT state, not_before > now() + interval '59 minutes' FROM ledger.work WHERE tenant = %s"
    world.load(patient("a", "a"))
    world.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", LoseRequest())
    world.commit()
    assert world.rows(rests) == [("unknown", True)]
    world.change(
        "UPDATE ledger.work SET state = 'sending', worker = 'dead', lease_until = now() - interval '1 s', not_before = now() "
        "WHERE tenant = %s"
    )
    world.change("UPDATE ledger.intent SET state = 'sending' WHERE tenant = %s")
    with world.run.store.tenant(world.run.id) as connection:
        reap(connection, world.run)
    assert world.rows(rests) == [("unknown", True)], "also after a worker that died"


def test_one_that_a_person_changed_before_we_looked_is_still_known_as_ours(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", LoseAnswer())

    def change(status: int, headers: Any, body: bytes) -> Any:
        (found,) = faulty.in_ehr(wanted.business_key)
        faulty.ehr.chart.update({**found, "valueQuantity": {**found["valueQuantity"], "value": 99}})
        return status, headers, body

    line.rules.insert(
        0,
        _once(lambda seen: seen.path == "Observation/_search" and b"identifier=" in seen.body, First(lambda: change(0, 0, b""))),
    )
    faulty.commit()
    assert faulty.intents() == [("committed", "reconciled", "found_in_history")]
    (found,) = faulty.in_ehr(wanted.business_key)
    assert found["valueQuantity"]["value"] == 99


def test_what_bears_our_key_and_never_said_what_we_said_goes_to_a_person(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    other = {**wanted.payload, "valueQuantity": {**wanted.payload["valueQuantity"], "value": 10}}
    line.on("POST", "Observation", First(lambda: faulty.ehr.chart.create(other)))
    line.rules.insert(0, _once(lambda seen: seen.path == "Observation" and seen.method == "POST", LoseRequest()))
    line.rules.insert(0, _once(lambda seen: b"identifier=" in seen.body, First(lambda: faulty.ehr.chart.create(other))))
    faulty.commit()
    assert faulty.intents() == [("in_review", None, "differs_from_ours")]
    assert faulty.rows("SELECT opened_by, reason, state FROM review.task WHERE tenant = %s") == [
        ("commit", "differs_from_ours", "open")
    ]


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
def test_a_server_error_on_a_write_is_looked_up_too(faulty: World, line: FaultyLine, status: int) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", Twist(lambda *_: (status, [], b"<html>oops</html>")))
    report = faulty.commit()
    assert (report.counts["unknown"], report.counts["reconciled"]) == (1, 1)
    assert len(faulty.in_ehr(wanted.business_key)) == 1


def test_a_500_that_stays_goes_to_a_person_after_two_tries(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", *[Say(500)] * 9)
    faulty.commit()
    assert faulty.intents() == [("in_review", None, "retries_exhausted")]
    assert len(line.sent("POST", "Observation")) == 2


def test_an_empty_201_is_read_back(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", Twist(lambda status, headers, _: (status, headers, b"")))
    assert faulty.commit().counts["created"] == 1
    assert len(faulty.in_ehr(wanted.business_key)) == 1
    assert faulty.rows("SELECT count(*) FROM ledger.link WHERE tenant = %s AND base IS NOT NULL") == [(1,)]


def test_an_unfinished_update_is_recognised_by_what_stands_there(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    first = faulty.approve(heart_rate("a", AT, 72))
    faulty.commit()
    faulty.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    line.on("PATCH", "Observation", LoseAnswer())
    faulty.commit()
    assert faulty.intents()[1] == ("committed", "updated", "found")
    (found,) = faulty.in_ehr(first.business_key)
    assert (found["valueQuantity"]["value"], found["status"], found["meta"]["versionId"]) == (80, "corrected", "2")


def test_a_412_after_an_unanswered_update_is_our_own_write(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    first = faulty.approve(heart_rate("a", AT, 72))
    faulty.commit()
    faulty.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    # The first PATCH arrives late: after we looked, right before our second one.
    held: list[Any] = []

    def kept(seen: Any) -> bool:
        held.append(seen)
        return True

    line.rules.insert(0, _once(lambda seen: seen.method == "PATCH" and kept(seen), LoseRequest()))

    def late() -> None:
        found = faulty.in_ehr(first.business_key)[0]
        faulty.ehr.chart.update({**found, "status": "corrected", "valueQuantity": {**found["valueQuantity"], "value": 80}})

    line.rules.insert(1, _once(lambda seen: seen.method == "PATCH" and bool(held) and seen is not held[0], First(late)))
    faulty.commit()
    assert faulty.intents()[1] == ("committed", "updated", "found")
    assert len(line.sent("PATCH")) == 2


def test_what_a_person_took_back_after_our_unanswered_update_is_not_sent_again(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    first = faulty.approve(heart_rate("a", AT, 72))
    faulty.commit()
    (before,) = faulty.in_ehr(first.business_key)
    faulty.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    line.on("PATCH", "Observation", LoseAnswer())
    line.rules.append(
        _once(
            lambda seen: seen.method == "GET" and bool(line.sent("PATCH")),
            First(lambda: faulty.ehr.chart.update(before)),
        )
    )
    faulty.commit()
    assert faulty.intents()[1] == ("committed", "updated", "found_in_history")
    (found,) = faulty.in_ehr(first.business_key)
    assert (found["valueQuantity"]["value"], found["status"], len(line.sent("PATCH"))) == (72, "final", 1)


@pytest.mark.parametrize(("how", "state"), [("delete", "deleted"), ("retract", "retracted")])
def test_what_a_person_undid_while_our_update_was_lost_stays_undone(
    faulty: World, line: FaultyLine, how: str, state: str
) -> None:
    faulty.load(patient("a", "a"))
    first = faulty.approve(heart_rate("a", AT, 72))
    faulty.commit()
    (found,) = faulty.in_ehr(first.business_key)

    def undo() -> None:
        if how == "delete":
            faulty.ehr.chart.delete("Observation", found["id"])
        else:
            faulty.ehr.chart.update({**found, "status": "entered-in-error"})

    faulty.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    line.on("PATCH", "Observation", LoseRequest())
    line.rules.append(_once(lambda seen: seen.method == "GET" and bool(line.sent("PATCH")), First(undo)))
    faulty.commit()
    assert faulty.intents()[1] == ("in_review", None, f"{state}_in_ehr")
    assert faulty.rows("SELECT state FROM ledger.link WHERE tenant = %s") == [(state,)]
    assert len(line.sent("PATCH")) == 1


def test_without_a_history_nobody_can_tell_whether_it_was_taken_back(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    first = faulty.approve(heart_rate("a", AT, 72))
    faulty.commit()
    (before,) = faulty.in_ehr(first.business_key)
    faulty.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    touched = {**before, "meta": {"tag": [{"system": "urn:x", "code": "seen"}]}}
    line.on("PATCH", "Observation", LoseRequest())
    line.rules += [
        lambda seen: Say(405) if seen.path.endswith("_history") else None,
        _once(lambda seen: seen.method == "GET" and bool(line.sent("PATCH")), First(lambda: faulty.ehr.chart.update(touched))),
    ]
    faulty.commit()
    assert faulty.intents()[1] == ("in_review", None, "history_unreadable")


def test_several_with_our_key_are_an_incident(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", First(lambda: [faulty.ehr.chart.create(wanted.payload) for _ in range(2)]))
    faulty.commit()
    assert faulty.intents() == [("in_review", None, "several_matches")]
    assert faulty.rows("SELECT status, outcome FROM ledger.attempt WHERE tenant = %s") == [(412, "several_matches")]


def test_the_sealed_answer_is_kept_with_the_attempt_and_leads_to_all_contexts(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    outcome = {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "error", "code": "invalid", "diagnostics": "Test, Case"}],
    }
    line.on("POST", "Observation", Say(422, (("Content-Type", "application/fhir+json"),), json.dumps(outcome).encode()))
    faulty.commit()
    ((code, record, candidate, verdict, attempt),) = faulty.owner_rows(
        "SELECT i.code, a.intent_id IS NOT NULL, i.candidate_id, c.verdict_id IS NOT NULL, a.attempt_id "
        "FROM quarantine.item i JOIN ledger.attempt a ON a.tenant = i.tenant AND a.intent_id = i.intent_id "
        "JOIN decision.candidate c ON c.tenant = i.tenant AND c.candidate_id = i.candidate_id WHERE i.tenant = %s"
    )
    assert (code, record, candidate, verdict) == ("unprocessable", True, wanted.candidate_id, True)
    ((sealed,),) = faulty.rows("SELECT answer FROM ledger.attempt WHERE tenant = %s AND attempt_id = %s", attempt)
    assert b"Test" not in bytes(sealed)
    assert json.loads(faulty.run.sealer.open("ledger.attempt", attempt, sealed)) == outcome


def _once(fits: Callable[[Any], bool], fault: Any) -> Callable[[Any], Any]:
    left = [fault]

    def rule(seen: Any) -> Any:
        return left.pop() if left and fits(seen) else None

    return rule
