"""Success does not mean stored: what the answer shows, or a read where the matrix asks for one, is compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from commit.faults import FaultyLine, Say, Twist
from commit.world import World, heart_rate, patient

from fhir_writeback_dagster.rules.fhir.content import Loss, lost

AT = "2024-03-01T10:00:00Z"
SENT = heart_rate("a", AT, 72)


def _without(*names: str) -> Twist:
    """The answer shows a resource that lost some elements."""

    def strip(status: int, headers: Any, body: bytes) -> Any:
        resource = json.loads(body)
        return status, headers, json.dumps({k: v for k, v in resource.items() if k not in names}).encode()

    return Twist(strip)


def test_a_lost_value_is_quarantined_with_its_diff_and_the_resource_is_linked(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", _without("valueQuantity", "effectiveDateTime"))
    assert faulty.commit().counts["quarantined"] == 1
    assert faulty.intents() == [("quarantined", None, "field_loss")]
    ((attempt, code, detail),) = faulty.owner_rows(
        "SELECT q.attempt_id, q.code, e.detail FROM quarantine.item q JOIN audit.event e ON e.tenant = q.tenant "
        "AND e.subject = q.intent_id::text AND e.type = 'intent.quarantined' WHERE q.tenant = %s"
    )
    assert (code, detail["elements"]) == ("field_loss", ["effectiveDateTime", "valueQuantity"])
    ((sealed,),) = faulty.rows("SELECT answer FROM ledger.attempt WHERE tenant = %s AND attempt_id = %s", attempt)
    assert "valueQuantity" not in json.loads(faulty.run.sealer.open("ledger.attempt", attempt, sealed))
    assert faulty.rows("SELECT business_key, state FROM ledger.link WHERE tenant = %s") == [(wanted.business_key, "active")]
    assert len(faulty.in_ehr(wanted.business_key)) == 1


def test_a_lost_remark_loses_nothing(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72, note=[{"text": "by cuff"}]))
    line.on("POST", "Observation", _without("note"))
    assert faulty.commit().counts["created"] == 1


@pytest.mark.parametrize(("must_keep", "end"), [(["code"], "committed"), (["code", "method"], "quarantined")])
def test_what_the_ehr_has_no_place_for_is_told_and_quarantined_only_where_the_mapping_needs_it(
    faulty: World, line: FaultyLine, must_keep: list[str], end: str
) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72, method={"text": "cuff"}))
    query = "UPDATE decision.candidate SET must_keep = x.names FROM (SELECT %s AS t, %s::text[] AS names) x WHERE tenant = x.t"
    faulty.change(query, must_keep)
    line.on("POST", "Observation", _without("method"))
    faulty.commit()
    ((state, _, _),) = faulty.intents()
    assert state == end
    [(detail,)] = faulty.owner_rows("SELECT detail FROM audit.event WHERE tenant = %s AND type = %s", f"intent.{end}")
    assert detail["elements"] == ["method"]


def test_where_the_matrix_asks_for_it_what_stands_there_is_read(make_world: Callable[..., World], line: FaultyLine) -> None:
    """Epic's matrix: a 201 is no proof."""
    world = make_world(ehr={"base_url": line.base_url, "vendor": "epic"})
    world.load(patient("a", "a"))
    world.approve_all([heart_rate("a", AT, 72), heart_rate("a", "2024-03-01T11:00:00Z", 73)])
    line.on("GET", "Observation", None, _without("valueQuantity"))
    report = world.commit()
    assert (report.counts["created"], report.counts["quarantined"]) == (1, 1)
    assert len(line.sent("GET", "Observation")) == 2


@pytest.mark.parametrize(
    ("theirs", "missing"),
    [
        (SENT, ()),
        ({**SENT, "id": "1", "performer": [{"display": "x"}]}, ()),
        ({**SENT, "valueQuantity": {**SENT["valueQuantity"], "value": 27}}, ("valueQuantity",)),
        ({k: v for k, v in SENT.items() if k != "category"}, ()),
    ],
)
def test_what_counts_as_lost(theirs: dict[str, Any], missing: tuple[str, ...]) -> None:
    ours = {k: v for k, v in SENT.items() if k != "category"}
    assert lost(ours, theirs).grave == missing


@pytest.mark.parametrize(
    ("gone", "loss"),
    [
        ("method", Loss(light=("method",))),  # the EHR has no place for it, and the mapping does not ask for it
        ("valueQuantity", Loss(grave=("valueQuantity",))),
        ("performer", Loss(grave=("performer",))),  # it would not count, had the mapping not named it
        ("status", Loss(grave=("status",))),
    ],
)
def test_the_mapping_says_what_must_survive(gone: str, loss: Loss) -> None:
    ours = {**SENT, "method": {"text": "cuff"}, "performer": [{"display": "a ward"}]}
    theirs = {name: value for name, value in ours.items() if name != gone}
    assert lost(ours, theirs, frozenset({"code", "valueQuantity", "performer"})) == loss
    assert lost(ours, theirs).light == ()


def test_what_says_another_thing_than_was_sent_is_lost_whatever_the_mapping_asks_for() -> None:
    theirs = {**SENT, "method": {"text": "palpation"}}
    assert lost({**SENT, "method": {"text": "cuff"}}, theirs, frozenset({"code"})).grave == ("method",)


def test_a_lost_security_label_is_lost() -> None:
    label = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "PATAST"}
    assert lost({**SENT, "meta": {"security": [label]}}, SENT, frozenset()).grave == ("meta.security",)


def test_a_document_that_is_served_from_a_url_is_there() -> None:
    def note(**attachment: str) -> dict[str, Any]:
        return {"resourceType": "DocumentReference", "status": "current", "content": [{"attachment": attachment}]}

    ours = note(contentType="text/plain", data="aGk=")
    assert lost(ours, note(contentType="text/plain", url="https://ehr.example/Binary/1")) == Loss()
    assert lost(ours, note(contentType="text/plain", data="aG8=")).grave == ("content",)


def test_a_mediated_submission_is_asked_about_until_it_is_there_and_never_sent_again(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", Say(202))
    report = faulty.commit()
    assert (report.waiting, report.counts["pending_target"] > 1) == ({"pending_target": 1}, True)
    faulty.ehr.chart.create(wanted.payload)
    faulty.change("UPDATE ledger.work SET not_before = now() WHERE tenant = %s")
    assert faulty.commit().counts["reconciled"] == 1
    assert len(line.sent("POST", "Observation")) == 1
    assert len(faulty.in_ehr(wanted.business_key)) == 1


def test_a_submission_that_is_mediated_for_too_long_goes_to_a_person(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", Say(202))
    faulty.commit()
    faulty.change("UPDATE ledger.work SET not_before = now(), sent_at = now() - interval '8 days' WHERE tenant = %s")
    faulty.commit()
    assert faulty.intents() == [("in_review", None, "pending_too_long")]
    assert len(line.sent("POST", "Observation")) == 1
