"""Many in one request: each entry is answered for itself, and an answer that cannot be matched counts for nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from commit.faults import FaultyLine, LoseAnswer, Say, Seen, Twist, refusal
from commit.world import Candidate, World, heart_rate, patient

JSON = (("Content-Type", "application/fhir+json"),)


@pytest.fixture
def world(make_world: Callable[..., World], line: FaultyLine) -> World:
    made = make_world(ehr={"base_url": line.base_url, "bundle_size": 10})
    made.load(*(patient(f"p{n}", f"p{n}") for n in range(4)))
    return made


def _approve(world: World, count: int = 10) -> list[Candidate]:
    return world.approve_all([heart_rate(f"p{n % 4}", f"2024-03-01T10:0{n}:00Z", 60 + n) for n in range(count)])


def _bundles(line: FaultyLine) -> list[dict[str, Any]]:
    return [json.loads(seen.body) for seen in line.seen if seen.method == "POST" and seen.path == ""]


def test_a_batch_of_several_patients_is_one_request(world: World, line: FaultyLine) -> None:
    wanted = _approve(world)
    assert world.commit().counts["created"] == 10
    (bundle,) = _bundles(line)
    assert bundle["type"] == "batch"
    assert {entry["request"]["ifNoneExist"] for entry in bundle["entry"]} == {
        f"identifier=https%3A%2F%2F{world.run.id}.example%2Ffhir-writeback%7C{c.business_key}" for c in wanted
    }
    assert all(len(world.in_ehr(c.business_key)) == 1 for c in wanted)
    assert len(world.rows("SELECT DISTINCT request_id FROM ledger.attempt WHERE tenant = %s")) == 1


@pytest.mark.parametrize(("status", "again"), [("429 Too Many Requests", True), ("422 Unprocessable Entity", False)])
def test_only_the_entries_that_failed_go_again(world: World, line: FaultyLine, status: str, *, again: bool) -> None:
    _approve(world)

    def two_fail(status_now: int, headers: Any, body: bytes) -> Any:
        bundle = json.loads(body)
        issue = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "invalid"}]}
        for place in (3, 7):
            bundle["entry"][place] = {"response": {"status": status, "outcome": issue}}
        return status_now, headers, json.dumps(bundle).encode()

    line.on("POST", "", Twist(two_fail))
    report = world.commit()
    # What was throttled was in truth written, so the server finds it; a refusal stays what the server said.
    assert (report.counts["created"], report.counts["reconciled" if again else "quarantined"]) == (8, 2)
    sent = [len(bundle["entry"]) for bundle in _bundles(line)] + [1] * len(line.sent("POST", "Observation"))
    assert (sent[0], sum(sent[1:])) == (10, 2 if again else 0)
    assert len(world.ehr.search("Observation")) == 10


@pytest.mark.parametrize("how", ["not a bundle", "html"])
def test_what_is_no_bundle_of_answers_is_no_answer(world: World, line: FaultyLine, how: str) -> None:
    wanted = _approve(world)

    def garble(status: int, headers: Any, body: bytes) -> Any:
        bundle = json.loads(body)
        if how == "not a bundle":
            bundle = {"resourceType": "OperationOutcome", "issue": []}
        return status, headers, b"<html/>" if how == "html" else json.dumps(bundle).encode()

    line.on("POST", "", Twist(garble))
    report = world.commit()
    assert (report.counts["unknown"], report.counts["reconciled"]) == (10, 10)
    assert all(len(world.in_ehr(c.business_key)) == 1 for c in wanted)


def test_a_lost_answer_to_a_batch_makes_no_second_resource(world: World, line: FaultyLine) -> None:
    wanted = _approve(world)
    line.on("POST", "", LoseAnswer())
    report = world.commit()
    assert (report.counts["unknown"], report.counts["reconciled"]) == (10, 10)
    assert all(len(world.in_ehr(c.business_key)) == 1 for c in wanted)
    assert len(_bundles(line)) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_bundle_that_is_refused_as_a_whole_goes_again_in_halves(world: World, line: FaultyLine, status: int) -> None:
    wanted = _approve(world)
    line.on("POST", "", refusal(status))
    assert world.commit().counts["created"] == 10
    assert all(len(world.in_ehr(c.business_key)) == 1 for c in wanted)
    assert [len(bundle["entry"]) for bundle in _bundles(line)] == [10, 5, 5]


def test_the_bad_entry_of_a_transaction_is_found_and_the_others_are_written(
    make_world: Callable[..., World], line: FaultyLine
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "bundle_size": 10, "bundle": "transaction"})
    world.load(*(patient(f"p{n}", f"p{n}") for n in range(4)))
    good = _approve(world, 9)
    bad = heart_rate("p2", "2024-03-01T11:00:00Z", 70)
    del bad["status"]
    world.approve(bad)
    report = world.commit()
    assert (report.counts["created"], report.counts["quarantined"]) == (9, 1)
    assert all(len(world.in_ehr(c.business_key)) == 1 for c in good)
    assert {bundle["type"] for bundle in _bundles(line)} == {"transaction"}
    assert len(line.sent("POST", "Observation")) <= 3
    assert world.owner_rows("SELECT code FROM quarantine.item WHERE tenant = %s") == [("malformed",)]


def test_a_transaction_that_says_no_and_did_a_part_of_it_makes_nothing_twice(
    make_world: Callable[..., World], line: FaultyLine
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "bundle_size": 10, "bundle": "transaction"})
    world.load(*(patient(f"p{n}", f"p{n}") for n in range(4)))
    wanted = _approve(world, 6)

    def half(seen: Seen) -> Say | None:
        if seen.path == "" and len(_bundles(line)) == 1:
            for candidate in wanted[:3]:
                world.ehr.chart.create(candidate.payload)
            return refusal(422)
        return None

    line.rules.append(half)
    report = world.commit()
    assert (report.counts["created"], report.counts["reconciled"]) == (3, 3)
    assert all(len(world.in_ehr(c.business_key)) == 1 for c in wanted)


@pytest.mark.parametrize("status", ["500", "503", "429"])
def test_an_entry_in_doubt_is_looked_up_and_one_that_was_not_done_goes_again_the_others_stand(
    world: World, line: FaultyLine, status: str
) -> None:
    wanted = _approve(world, 5)

    def one_fails(status_now: int, headers: Any, body: bytes) -> Any:
        bundle = json.loads(body)
        gone = bundle["entry"][2]["response"]["location"].split("/")
        world.ehr.chart.delete("Observation", gone[gone.index("Observation") + 1])
        bundle["entry"][2] = {"response": {"status": status}}
        return status_now, headers, json.dumps(bundle).encode()

    line.on("POST", "", Twist(one_fails))
    report = world.commit()
    assert (report.counts["created"], report.counts.get("unknown", 0)) == (5, 0 if status == "429" else 1)
    assert all(len(world.in_ehr(c.business_key)) == 1 for c in wanted)
    assert len(line.sent("POST", "Observation")) == 1


def test_updates_go_beside_the_batch(world: World, line: FaultyLine) -> None:
    (first, *_) = _approve(world, 2)
    world.commit()
    world.approve(heart_rate("p0", "2024-03-01T10:00:00Z", 99), key=first.business_key, revision=2)
    world.approve_all([heart_rate("p0", f"2024-03-02T10:0{n}:00Z", 70) for n in range(3)])
    report = world.commit()
    assert (report.counts["created"], report.counts["updated"]) == (3, 1)
    assert len(line.sent("PATCH")) == 1


def test_a_patient_with_more_than_a_batch_is_written_completely(world: World, line: FaultyLine) -> None:
    world.approve_all([heart_rate("p1", f"2024-03-01T{n // 60:02d}:{n % 60:02d}:00Z", 70) for n in range(37)])
    assert world.commit().counts["created"] == 37
    assert sorted(len(bundle["entry"]) for bundle in _bundles(line)) == [7, 10, 10, 10]
