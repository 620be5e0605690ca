"""What is written is superseded or retracted, and never deleted; and only while it is ours alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from commit.faults import FaultyLine, LoseAnswer, LoseRequest, Say, Twist
from commit.world import World, heart_rate, patient

AT = "2024-03-01T10:00:00Z"
IN_ERROR = {"status": "entered-in-error"}


def document(text: str, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "DocumentReference",
        "status": "current",
        "docStatus": "final",
        "type": {"coding": [{"system": "http://loinc.org", "code": "11506-3"}]},
        "subject": {"reference": "Patient/a"},
        "date": AT,
        "content": [
            {
                "attachment": {
                    "contentType": "text/plain;charset=utf-8",
                    "data": base64.b64encode(text.encode()).decode(),
                }
            }
        ],
        **more,
    }


def _documents(world: World) -> list[dict[str, Any]]:
    return sorted(world.ehr.search("DocumentReference"), key=lambda one: one["meta"]["lastUpdated"])


def test_a_retraction_is_an_update_of_the_status_alone(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    first = faulty.approve(heart_rate("a", AT, 72))
    faulty.commit()
    faulty.approve({**heart_rate("a", AT, 72), **IN_ERROR}, key=first.business_key, revision=2)
    assert faulty.commit().counts["updated"] == 1
    (found,) = faulty.in_ehr(first.business_key)
    assert (found["status"], found["valueQuantity"]["value"]) == ("entered-in-error", 72)
    (patch,) = line.sent("PATCH")
    assert [op["path"] for op in json.loads(patch.body) if op["op"] != "test"] == ["/status"]
    assert line.sent("DELETE") == []


def test_what_a_person_touched_is_retracted_by_a_person(world: World) -> None:
    world.load(patient("a", "a"))
    first = world.approve(heart_rate("a", AT, 72))
    world.commit()
    (found,) = world.in_ehr(first.business_key)
    world.ehr.chart.update({**found, "note": [{"text": "confirmed by hand"}]})
    world.approve({**heart_rate("a", AT, 72), **IN_ERROR}, key=first.business_key, revision=2)
    world.commit()
    assert world.intents()[1] == ("in_review", None, "clinician_edited")
    assert world.in_ehr(first.business_key)[0]["status"] == "final"


def test_what_was_never_written_is_not_written_to_be_retracted(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve({**heart_rate("a", AT, 72), **IN_ERROR})
    faulty.commit()
    assert faulty.intents() == [("discarded", None, "nothing_to_retract")]
    assert line.sent("POST", "Observation") == []


def test_what_a_person_retracted_needs_no_retraction(world: World) -> None:
    world.load(patient("a", "a"))
    first = world.approve(heart_rate("a", AT, 72))
    world.commit()
    (found,) = world.in_ehr(first.business_key)
    world.ehr.chart.update({**found, **IN_ERROR})
    world.approve({**heart_rate("a", AT, 72), **IN_ERROR}, key=first.business_key, revision=2)
    assert world.commit().counts["suppressed"] == 1
    world.approve(heart_rate("a", AT, 72), key=first.business_key, revision=3)
    world.commit()
    assert world.intents()[2] == ("in_review", None, "retracted_in_ehr")


def test_another_content_of_a_document_replaces_the_one_before(world: World) -> None:
    world.load(patient("a", "a"))
    first = world.approve(document("first"), kind="document")
    for revision, text in ((1, "first"), (2, "second"), (3, "third")):
        if revision > 1:
            world.approve(document(text), kind="document", key=first.business_key, revision=revision)
        world.commit()
    assert [outcome for _, outcome, _ in world.intents()] == ["created", "updated", "updated"]
    one, two, three = _documents(world)
    assert "relatesTo" not in one
    for later, earlier in ((two, one), (three, two)):
        target = {"reference": f"DocumentReference/{earlier['id']}"}
        assert later["relatesTo"] == [{"code": "replaces", "target": target}]
    assert (one["meta"]["versionId"], two["meta"]["versionId"]) == ("1", "1")
    assert world.rows("SELECT resource_id FROM ledger.link WHERE tenant = %s") == [(three["id"],)]
    values = [d["identifier"][0]["value"].removeprefix(first.business_key) for d in (one, two, three)]
    assert values == ["", ".2", ".3"]


@pytest.mark.parametrize("fault", [LoseAnswer(), LoseRequest()], ids=["answer", "request"])
def test_a_successor_without_an_answer_is_looked_up(faulty: World, line: FaultyLine, fault: Any) -> None:
    faulty.load(patient("a", "a"))
    first = faulty.approve(document("first"), kind="document")
    faulty.commit()
    faulty.approve(document("second"), kind="document", key=first.business_key, revision=2)
    line.on("POST", "DocumentReference", fault)
    faulty.commit()
    assert faulty.intents()[1][:2] == ("committed", "updated")
    assert len(_documents(faulty)) == 2


def test_a_successor_that_somebody_changed_before_we_could_look_goes_to_a_person(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"), patient("b", "b"))
    first = faulty.approve(document("first"), kind="document")
    faulty.commit()
    faulty.approve(document("second"), kind="document", key=first.business_key, revision=2)
    faulty.approve(heart_rate("b", "2024-03-01T10:00:00Z", 72))

    def changed(status: int, headers: Any, body: bytes) -> Any:
        bundle = json.loads(body)
        for entry in bundle.get("entry", ()):
            entry["resource"]["description"] = "somebody else's words"
            entry["resource"]["content"][0]["attachment"].pop("data", None)
        return status, headers, json.dumps(bundle).encode()

    line.on("POST", "DocumentReference", LoseAnswer())
    line.always("POST", "DocumentReference/_search", Twist(changed))
    line.rules.append(lambda seen: Say(404) if "_history" in seen.path else None)
    faulty.commit()
    faulty.change("UPDATE ledger.work SET not_before = now() WHERE tenant = %s")
    faulty.commit()
    assert [row[0] for row in faulty.intents()] == ["committed", "in_review", "committed"]
    assert faulty.intents()[1][2] == "differs_from_ours"


def test_a_document_that_a_person_changed_is_not_replaced(world: World) -> None:
    world.load(patient("a", "a"))
    first = world.approve(document("first"), kind="document")
    world.commit()
    (found,) = _documents(world)
    world.ehr.chart.update({**found, "docStatus": "amended"})
    world.approve(document("second"), kind="document", key=first.business_key, revision=2)
    world.commit()
    assert world.intents()[1] == ("in_review", None, "clinician_edited")
    assert len(_documents(world)) == 1


def test_without_a_guard_a_person_replaces_it(make_world: Callable[..., World]) -> None:
    world = make_world(ehr={"vendor": "epic"})
    world.load(patient("a", "a"))
    first = world.approve(document("first"), kind="document")
    world.commit()
    world.approve(document("second"), kind="document", key=first.business_key, revision=2)
    world.commit()
    assert world.intents()[1][::2] == ("in_review", "supersede_unguarded")
