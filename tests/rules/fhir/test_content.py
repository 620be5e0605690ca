"""Do two resources say the same, and what is the smallest change from one to the other?"""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.rules.fhir.content import as_correction, difference, laid_over, lost, same_content

LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"
Resource = dict[str, Any]


def ours(**more: Any) -> Resource:
    return {
        "resourceType": "Observation",
        "identifier": [{"system": "urn:ours", "value": "key"}],
        "status": "final",
        "code": {"coding": [{"system": LOINC, "code": "8302-2", "display": "Body height"}], "text": "Height"},
        "subject": {"reference": "Patient/1"},
        "effectiveDateTime": "2014-08-22T18:34:30Z",
        "valueQuantity": {"value": Decimal("72.5"), "unit": "cm", "system": UCUM, "code": "cm"},
        **more,
    }


def theirs(**more: Any) -> Resource:
    """Ours as an EHR gives it back: with what servers add, and written their way."""
    stored = ours(
        id="e1",
        meta={"versionId": "3", "lastUpdated": "2026-11-22T10:00:00Z"},
        text={"status": "generated", "div": "<div>x</div>"},
        identifier=[{"system": "urn:ehr", "value": "77"}, {"system": "urn:ours", "value": "key"}],
        code={
            "coding": [
                {"system": "urn:ehr:codes", "code": "HT"},
                {"system": LOINC, "code": "8302-2", "display": "Height", "userSelected": True},
            ]
        },
        subject={"reference": "https://ehr.example/fhir/Patient/1", "display": "A. Person"},
        effectiveDateTime="2014-08-22T14:34:30.000-04:00",
        issued="2026-11-22T10:00:00Z",
        performer=[{"reference": "Practitioner/1"}],
    )
    stored["valueQuantity"] = {"value": Decimal("72.50"), "unit": "centimetre", "system": UCUM, "code": "cm"}
    return {**stored, **more}


def test_what_a_server_adds_or_writes_its_own_way_is_no_difference() -> None:
    assert same_content(ours(), ours())
    assert same_content(ours(), theirs())


@pytest.mark.parametrize(
    "change",
    [
        {"status": "amended"},
        {"status": "entered-in-error"},
        {"effectiveDateTime": "2014-08-22T18:34:31Z"},
        {"effectiveDateTime": "2014-08-22"},
        {"valueQuantity": {"value": Decimal("72.51"), "unit": "cm", "system": UCUM, "code": "cm"}},
        {"valueQuantity": {"value": Decimal("72.5"), "unit": "in", "system": UCUM, "code": "[in_i]"}},
        {"valueQuantity": {"value": Decimal("72.5"), "unit": "cm", "system": UCUM, "code": "cm", "comparator": "<"}},
        {"subject": {"reference": "Patient/2"}},
        {"subject": {"reference": "Group/1"}},
        {"code": {"coding": [{"system": LOINC, "code": "3141-9"}], "text": "Height"}},
        {"dataAbsentReason": {"text": "error"}},
        {"component": [{"code": {"text": "x"}, "valueString": "y"}]},
        {"modifierExtension": [{"url": "urn:x", "valueBoolean": True}]},
        {"resourceType": "Condition"},
    ],
)
def test_what_changes_the_meaning_is_a_difference(change: Resource) -> None:
    assert not same_content(ours(), {**theirs(), **change})


def test_a_comparator_is_part_of_the_value() -> None:
    def result(value: str, **more: str) -> Resource:
        return ours(valueQuantity={"value": Decimal(value), **more, "unit": "mg/L", "system": UCUM, "code": "mg/L"})

    assert same_content(result("5", comparator="<"), result("5.0", comparator="<"))
    assert not same_content(result("5", comparator="<"), result("5", comparator="<="))
    assert lost(result("5", comparator="<"), result("5")).grave == ("valueQuantity",)
    measured = laid_over(result("5", comparator="<"), result("4.8"))
    assert measured["valueQuantity"] == result("4.8")["valueQuantity"], "nothing of the bound stays"


def test_what_the_chart_lost_is_a_difference() -> None:
    for name in ("valueQuantity", "effectiveDateTime", "status", "code"):
        lost = theirs()
        del lost[name]
        assert not same_content(ours(), lost)


def test_components_are_compared_without_their_order_and_to_the_last() -> None:
    parts = [
        {"code": {"coding": [{"system": LOINC, "code": c}]}, "valueInteger": n} for c, n in (("8480-6", 120), ("8462-4", 80))
    ]
    panel = ours(component=parts)
    assert same_content(panel, theirs(component=parts[::-1]))
    assert not same_content(panel, theirs(component=parts[:1]))
    assert not same_content(panel, theirs(component=[*parts, parts[0]]))


def test_a_concept_without_codes_is_its_text() -> None:
    assert same_content(ours(code={"text": "Body  height"}), theirs(code={"text": "body height"}))
    assert not same_content(ours(code={"text": "Body height"}), theirs(code={"text": "Body weight"}))


def test_a_document_is_its_bytes_and_kind() -> None:
    def document(**attachment: Any) -> Resource:
        return {"resourceType": "DocumentReference", "status": "current", "content": [{"attachment": attachment}]}

    mine = document(contentType="text/plain;charset=utf-8", data="aGVs\nbG8=")
    assert same_content(
        mine, document(contentType="text/plain; charset=UTF-8", data="aGVsbG8=", size=5, hash="x", url="Binary/1")
    )
    assert not same_content(mine, document(contentType="application/pdf", data="aGVsbG8="))
    assert not same_content(mine, document(contentType="text/plain;charset=utf-8", data="aGVsbG9v"))
    assert not same_content(mine, document(contentType="text/plain;charset=utf-8", url="Binary/1"))


@pytest.mark.parametrize("status", ["final", "amended", "corrected"])
def test_a_correction_of_a_finished_observation_says_so(status: str) -> None:
    payload = ours(status=status)
    assert as_correction(payload) == {**payload, "status": "corrected"}
    assert payload["status"] == status


@pytest.mark.parametrize("payload", [ours(status="preliminary"), {"resourceType": "Condition", "code": {"text": "x"}}])
def test_a_correction_of_anything_else_keeps_its_status(payload: Resource) -> None:
    assert as_correction(payload) == payload


def test_the_smallest_update_of_a_value_touches_the_value_alone() -> None:
    chart = theirs()
    del chart["text"]
    new = ours()
    new["valueQuantity"] = {**new["valueQuantity"], "value": Decimal("73.0")}
    wanted = laid_over(chart, as_correction(new))
    assert difference(chart, wanted) == [
        {"op": "test", "path": "/status", "value": "final"},
        {"op": "replace", "path": "/status", "value": "corrected"},
        {"op": "test", "path": "/valueQuantity/value", "value": Decimal("72.50")},
        {"op": "replace", "path": "/valueQuantity/value", "value": Decimal("73.0")},
        {"op": "test", "path": "/valueQuantity/unit", "value": "centimetre"},
        {"op": "replace", "path": "/valueQuantity/unit", "value": "cm"},
    ]


def test_equal_content_needs_no_operation() -> None:
    assert difference(theirs(), laid_over(theirs(), ours())) == []


def test_another_type_of_value_takes_the_place_of_the_old_one_and_the_old_narrative_goes() -> None:
    new = ours(valueString="tall")
    del new["valueQuantity"]
    wanted = laid_over(theirs(), new)
    assert wanted["valueString"] == "tall"
    assert "valueQuantity" not in wanted
    assert "text" not in wanted
    assert wanted["performer"] == theirs()["performer"]


def test_what_we_said_and_say_no_more_goes_unless_the_chart_says_something_else_by_now() -> None:
    before, now = ours(interpretation=[{"text": "high"}]), ours()
    chart = theirs(interpretation=[{"text": "high"}])
    assert "interpretation" not in laid_over(chart, now, before)
    assert laid_over(chart, now)["interpretation"] == [{"text": "high"}]
    edited = theirs(interpretation=[{"text": "low"}])
    assert laid_over(edited, now, before)["interpretation"] == [{"text": "low"}]


def test_our_identifier_joins_those_of_the_chart() -> None:
    chart = theirs(identifier=[{"system": "urn:ehr", "value": "77"}])
    assert difference(chart, laid_over(chart, ours())) == [
        {"op": "add", "path": "/identifier/-", "value": {"system": "urn:ours", "value": "key"}}
    ]


def test_a_patient_update_touches_only_the_named_fields() -> None:
    chart = {
        "resourceType": "Patient",
        "id": "1",
        "name": [{"family": "Person"}],
        "telecom": [{"system": "phone", "value": "1", "use": "work"}, {"system": "phone", "value": "2", "use": "home"}],
        "address": [
            {"use": "home", "line": ["Old Street 1"], "city": "Walpole", "district": "Norfolk", "text": "Old Street 1, Walpole"}
        ],
    }
    payload = {
        "resourceType": "Patient",
        "id": "1",
        "telecom": [{"system": "phone", "value": "3"}, {"system": "email", "value": "a@b.example"}],
        "address": [{"line": ["New Street 2"]}],
    }
    wanted = laid_over(chart, payload)
    assert wanted["name"] == chart["name"]
    assert wanted["telecom"] == [
        {"system": "phone", "value": "1", "use": "work"},
        {"system": "phone", "value": "3", "use": "home"},
        {"system": "email", "value": "a@b.example"},
    ]
    assert wanted["address"] == [{"use": "home", "line": ["New Street 2"], "city": "Walpole", "district": "Norfolk"}]


def test_an_item_is_tested_whole_before_it_is_reached_by_index() -> None:
    base = {"name": [{"family": "A"}, {"family": "B", "given": ["x"]}]}
    wanted = {"name": [{"family": "A"}, {"family": "C", "given": ["x"]}]}
    assert difference(base, wanted) == [
        {"op": "test", "path": "/name/1", "value": {"family": "B", "given": ["x"]}},
        {"op": "replace", "path": "/name/1/family", "value": "C"},
    ]


def test_a_patch_fails_on_a_resource_that_somebody_changed() -> None:
    base, wanted = {"a": [1, 2], "b": "x"}, {"a": [1, 3], "b": "x"}
    with pytest.raises(jsonpatch.JsonPatchTestFailed):
        jsonpatch.apply_patch({"a": [2, 1], "b": "x"}, difference(base, wanted))


_leaves = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([Decimal("1.5"), Decimal("1.50"), "", "x", "a/b~c"])
_values = st.recursive(
    _leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab/~"), inner, max_size=3)
)
_objects = st.dictionaries(st.sampled_from("abc/~"), _values, max_size=4)


@given(base=_objects, wanted=_objects)
def test_a_patch_makes_the_base_into_what_is_wanted_and_tests_each_old_value(base: Resource, wanted: Resource) -> None:
    operations = difference(base, wanted)
    assert jsonpatch.apply_patch(copy.deepcopy(base), operations) == wanted
    for number, operation in enumerate(operations):
        if operation["op"] in {"replace", "remove"}:
            guards = [o["path"] for o in operations[:number] if o["op"] == "test"]
            assert any(operation["path"] == guard or operation["path"].startswith(f"{guard}/") for guard in guards)


@given(base=_objects)
def test_nothing_to_change_is_no_patch(base: Resource) -> None:
    assert difference(base, canonicaljson.decode(canonicaljson.encode(base))) == []
