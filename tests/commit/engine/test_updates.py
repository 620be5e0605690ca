"""What stands there already: suppressed when equal, changed by the smallest patch, never over a person's change."""

from __future__ import annotations

import json
from typing import Any

from commit.faults import FaultyLine, First
from commit.world import Candidate, World, heart_rate, patient

AT = "2024-03-01T10:00:00Z"


def _written(world: World, **more: Any) -> Candidate:
    world.load(patient("a", "a"))
    first = world.approve(heart_rate("a", AT, 72, **more))
    world.commit()
    return first


def test_a_changed_value_is_patched_and_the_observation_becomes_corrected(faulty: World, line: FaultyLine) -> None:
    first = _written(faulty)
    faulty.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    assert faulty.commit().counts["updated"] == 1
    (found,) = faulty.in_ehr(first.business_key)
    assert (found["valueQuantity"]["value"], found["status"], found["meta"]["versionId"]) == (80, "corrected", "2")
    (patch,) = line.sent("PATCH")
    operations = json.loads(patch.body)
    assert patch.headers["if-match"] == 'W/"1"'
    assert {op["path"] for op in operations if op["op"] != "test"} == {"/valueQuantity/value", "/status"}
    assert any(op["op"] == "test" for op in operations)
    assert faulty.rows("SELECT revision, version_id, etag FROM ledger.link WHERE tenant = %s") == [(2, "2", 'W/"2"')]


def test_a_bound_that_was_measured_after_all_is_no_bound_any_more(world: World) -> None:
    quantity = {"value": 5, "comparator": "<", "unit": "mg/L", "system": "http://unitsofmeasure.org", "code": "mg/L"}
    first = _written(world, valueQuantity=quantity)
    measured = dict(quantity)
    del measured["comparator"]
    world.approve(heart_rate("a", AT, 72, valueQuantity=measured), key=first.business_key, revision=2)
    assert world.commit().counts["updated"] == 1
    (found,) = world.in_ehr(first.business_key)
    assert (found["valueQuantity"], found["status"]) == (measured, "corrected")


def test_a_second_correction_stays_corrected_and_needs_no_status_change(faulty: World, line: FaultyLine) -> None:
    first = _written(faulty)
    for revision, value in ((2, 80), (3, 85)):
        faulty.approve(heart_rate("a", AT, value), key=first.business_key, revision=revision)
        faulty.commit()
    (found,) = faulty.in_ehr(first.business_key)
    assert (found["valueQuantity"]["value"], found["status"]) == (85, "corrected")
    assert {op["path"] for op in json.loads(line.sent("PATCH")[1].body) if op["op"] != "test"} == {"/valueQuantity/value"}


def test_equal_content_under_a_new_revision_is_suppressed_without_a_request(faulty: World, line: FaultyLine) -> None:
    first = _written(faulty)
    seen = len(line.sent("POST", "Observation")) + len(line.sent("PATCH")) + len(line.sent("GET", "Observation"))
    faulty.approve(heart_rate("a", AT, 72), key=first.business_key, revision=2)
    assert faulty.commit().counts["suppressed"] == 1
    assert faulty.intents()[1] == ("committed", "suppressed", "content_unchanged")
    assert len(line.sent("POST", "Observation")) + len(line.sent("PATCH")) + len(line.sent("GET", "Observation")) == seen
    assert faulty.rows("SELECT revision, version_id FROM ledger.link WHERE tenant = %s") == [(2, "1")]


def test_what_a_person_changed_is_reviewed_and_left_alone(world: World) -> None:
    first = _written(world)
    (found,) = world.in_ehr(first.business_key)
    world.ehr.chart.update({**found, "valueQuantity": {**found["valueQuantity"], "value": 60}})
    world.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    world.commit()
    assert world.intents()[1] == ("in_review", None, "clinician_edited")
    assert world.rows("SELECT evidence->'elements' FROM review.task WHERE tenant = %s") == [(["valueQuantity"],)]
    (found,) = world.in_ehr(first.business_key)
    assert found["valueQuantity"]["value"] == 60


def test_what_a_person_wrote_beside_ours_stays_through_every_later_revision(world: World) -> None:
    first = _written(world)
    (found,) = world.in_ehr(first.business_key)
    world.ehr.chart.update({**found, "note": [{"text": "patient was running"}]})
    for revision, value in ((2, 80), (3, 85)):
        world.approve(heart_rate("a", AT, value), key=first.business_key, revision=revision)
        assert world.commit().counts["updated"] == 1
        (found,) = world.in_ehr(first.business_key)
        assert (found["valueQuantity"]["value"], found["note"]) == (value, [{"text": "patient was running"}])
    world.approve(heart_rate("a", AT, 85, note=[{"text": "by cuff"}]), key=first.business_key, revision=4)
    world.commit()
    assert world.intents()[3] == ("in_review", None, "clinician_edited")
    assert world.in_ehr(first.business_key)[0]["note"] == [{"text": "patient was running"}]


def test_a_person_who_writes_beside_ours_between_reading_and_patching_keeps_it(faulty: World, line: FaultyLine) -> None:
    first = _written(faulty)
    (found,) = faulty.in_ehr(first.business_key)
    line.on("PATCH", "Observation", First(lambda: faulty.ehr.chart.update({**found, "bodySite": {"text": "wrist"}})))
    faulty.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    faulty.commit()
    assert faulty.intents()[1][:2] == ("committed", "updated")
    (found,) = faulty.in_ehr(first.business_key)
    assert (found["valueQuantity"]["value"], found["bodySite"]) == (80, {"text": "wrist"})
    assert len(line.sent("PATCH")) == 2


def test_a_new_version_that_says_the_same_is_no_change_of_a_person(world: World) -> None:
    first = _written(world)
    (found,) = world.in_ehr(first.business_key)
    world.ehr.chart.update({**found, "meta": {"tag": [{"system": "urn:x", "code": "seen"}]}})
    world.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    assert world.commit().counts["updated"] == 1


def test_what_a_person_deleted_is_not_made_again(world: World) -> None:
    first = _written(world)
    (found,) = world.in_ehr(first.business_key)
    world.ehr.chart.delete("Observation", found["id"])
    world.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    world.commit()
    assert world.intents()[1] == ("in_review", None, "deleted_in_ehr")
    assert world.rows("SELECT state FROM ledger.link WHERE tenant = %s") == [("deleted",)]
    world.approve(heart_rate("a", AT, 81), key=first.business_key, revision=3)
    world.commit()
    assert world.intents()[2] == ("in_review", None, "deleted_in_ehr")
    assert world.in_ehr(first.business_key) == []


def test_what_a_person_retracted_is_not_brought_back(world: World) -> None:
    first = _written(world)
    (found,) = world.in_ehr(first.business_key)
    world.ehr.chart.update({**found, "status": "entered-in-error"})
    world.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    world.commit()
    assert world.intents()[1] == ("in_review", None, "retracted_in_ehr")
    assert world.rows("SELECT state FROM ledger.link WHERE tenant = %s") == [("retracted",)]


def test_a_person_who_is_faster_than_our_patch_wins(faulty: World, line: FaultyLine) -> None:
    first = _written(faulty)
    (found,) = faulty.in_ehr(first.business_key)
    theirs = {**found, "valueQuantity": {**found["valueQuantity"], "value": 60}}
    line.on("PATCH", "Observation", First(lambda: faulty.ehr.chart.update(theirs)))
    faulty.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    faulty.commit()
    assert faulty.intents()[1] == ("in_review", None, "clinician_edited")
    (found,) = faulty.in_ehr(first.business_key)
    assert found["valueQuantity"]["value"] == 60


def test_a_touch_between_reading_and_patching_is_planned_anew(faulty: World, line: FaultyLine) -> None:
    first = _written(faulty)
    (found,) = faulty.in_ehr(first.business_key)
    touched = {**found, "meta": {"tag": [{"system": "urn:x", "code": "seen"}]}}
    line.on("PATCH", "Observation", First(lambda: faulty.ehr.chart.update(touched)))
    faulty.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    faulty.commit()
    assert faulty.intents()[1][:2] == ("committed", "updated")
    assert [attempt for (attempt,) in faulty.rows("SELECT status FROM ledger.attempt WHERE tenant = %s ORDER BY sent_at")] == [
        201,
        412,
        200,
    ]


def test_what_was_dropped_from_the_content_is_dropped_from_the_chart_and_what_others_added_stays(world: World) -> None:
    first = _written(world, note=[{"text": "by cuff"}])
    (found,) = world.in_ehr(first.business_key)
    assert found["note"] == [{"text": "by cuff"}]
    world.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    world.commit()
    (found,) = world.in_ehr(first.business_key)
    assert "note" not in found


def test_patients_are_neither_created_nor_changed_without_a_person(world: World) -> None:
    world.load(patient("a", "a"))
    world.approve({"resourceType": "Patient", "subject": {"reference": "Patient/a"}, "telecom": []}, kind="procedure", mrn="a")
    world.commit()
    assert world.intents() == [("in_review", None, "changes_patient")]
