"""Base, theirs, ours: what is written, what stays, and what goes to a person."""

from __future__ import annotations

from typing import Any

import pytest
from commit.world import heart_rate

from fhir_writeback_dagster.commit.adapters.three_way_merge import UNKNOWN, left_by_us, merge
from fhir_writeback_dagster.commit.protocol.model import Link

Resource = dict[str, Any]

SENT = heart_rate("a", "2024-03-01T10:00:00Z", 72)
QUANTITY = SENT["valueQuantity"]
NOTE = [{"text": "after exercise"}]


def stood(payload: Resource = SENT, **more: Any) -> Resource:
    return {**payload, "id": "1", "meta": {"versionId": "1"}, **more}


def link(base: Resource | None = None, previous: Resource | None = SENT) -> Link:
    base = stood() if base is None else base
    return Link("Observation", "1", "1", 'W/"1"', "ours", "lab", 1, b"", "active", base=base or None, previous=previous)


def value(number: float) -> Resource:
    return {**SENT, "valueQuantity": {**QUANTITY, "value": number}}


@pytest.mark.parametrize(
    ("theirs", "conflicts"),
    [
        ({}, ()),
        ({"note": NOTE}, ()),
        ({"bodySite": {"text": "wrist"}}, ()),
        ({"meta": {"versionId": "7"}, "text": {"status": "generated"}}, ()),
        ({"valueQuantity": {**QUANTITY, "value": 60}}, ("valueQuantity",)),
        ({"note": NOTE, "valueQuantity": {**QUANTITY, "value": 60}}, ("valueQuantity",)),
        ({"dataAbsentReason": {"text": "artefact"}}, ("dataAbsentReason",)),
        ({"status": "cancelled"}, ("status",)),
        ({"effectiveDateTime": "2024-03-01T11:00:00Z"}, ("effectiveDateTime",)),
        ({"code": {"coding": [{"system": "http://loinc.org", "code": "8889-8"}]}}, ("code",)),
        ({"subject": {"reference": "Patient/b"}}, ("subject",)),
        ({"modifierExtension": [{"url": "urn:x", "valueBoolean": True}]}, ("modifierExtension",)),
    ],
)
def test_what_others_changed_stands_against_ours_where_it_is_the_same_or_says_what_it_is_about(
    theirs: Resource, conflicts: tuple[str, ...]
) -> None:
    current = stood(**theirs)
    merged = merge(link(), current, value(80))
    assert merged.conflicts == conflicts
    assert merged.theirs == theirs.keys() - {"meta", "text"}
    if not conflicts:
        changed = {name for name in {*current, *merged.wanted} if merged.wanted.get(name) != current.get(name)} - {"text"}
        assert changed == {"valueQuantity", "status"}


def test_what_we_say_unchanged_does_not_defend_itself_against_a_person() -> None:
    current = stood(valueQuantity={**QUANTITY, "value": 60})
    merged = merge(link(), current, {**SENT, "note": NOTE})
    assert (merged.wanted["valueQuantity"]["value"], merged.wanted["note"], merged.conflicts) == (60, NOTE, ())


def test_nothing_of_ours_to_change_is_no_conflict() -> None:
    current = stood(valueQuantity={**QUANTITY, "value": 60}, status="amended")
    merged = merge(link(), current, SENT)
    assert (merged.wanted, merged.conflicts) == (current, ())


def test_without_a_base_nobody_can_tell() -> None:
    assert merge(link(base={}), stood(), value(80)).conflicts == (UNKNOWN,)


def test_an_element_that_we_left_alone_once_stays_theirs() -> None:
    first = stood(note=NOTE)
    merged = merge(link(), first, value(80))
    base = left_by_us(stood(), {**merged.wanted, "meta": {"versionId": "3"}}, merged.theirs)
    assert "note" not in base
    later = merge(link(base=base, previous=value(80)), {**merged.wanted}, {**value(80), "note": [{"text": "by cuff"}]})
    assert later.conflicts == ("note",)


def test_a_retraction_changes_the_status_and_nothing_else_and_not_what_others_changed() -> None:
    retraction = {**value(99), "status": "entered-in-error"}
    assert merge(link(), stood(), retraction).wanted == {**stood(), "status": "entered-in-error"}
    assert merge(link(), stood(note=NOTE), retraction).conflicts == ("note",)


def test_a_condition_in_error_has_no_clinical_status() -> None:
    def status(code: str) -> Resource:
        return {"coding": [{"system": "urn:status", "code": code}]}

    condition = {
        "resourceType": "Condition",
        "id": "1",
        "clinicalStatus": status("active"),
        "verificationStatus": status("confirmed"),
        "code": {"text": "asthma"},
    }
    in_error = {**condition, "verificationStatus": status("entered-in-error")}
    wanted = merge(link(base=condition), condition, in_error).wanted
    assert wanted == {k: v for k, v in in_error.items() if k != "clinicalStatus"}
