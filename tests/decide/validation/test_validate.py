"""Validation on HL7's own examples, on golden payloads and on a mutation corpus made of both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from decide.mutants import ERRATA, Mutant, Resource, corpus, golden_payloads, official_examples

from fhir_writeback_dagster.decide.validation.issues import Issue
from fhir_writeback_dagster.decide.validation.validate import shape, validate
from fhir_writeback_dagster.rules.fhir.unit_reading import common_codes

VITAL_SIGNS = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "vital-signs"}]}
UCUM = "http://unitsofmeasure.org"
LOINC = "http://loinc.org"


def errors(resource: Resource) -> list[Issue]:
    return [issue for issue in validate(resource) if issue.severity == "error"]


def observation(**more: Any) -> Resource:
    code = {"coding": [{"system": LOINC, "code": "2345-7"}]}
    return {"resourceType": "Observation", "status": "final", "code": code, **more}


def codes(resource: Resource) -> set[tuple[str, str, str]]:
    return {(issue.layer, issue.code, issue.path) for issue in validate(resource)}


def test_no_valid_official_example_is_refused() -> None:
    refused = [
        (r["resourceType"], r.get("id"), issue.code, issue.path)
        for r in official_examples()
        if (r["resourceType"], r.get("id")) not in ERRATA
        for issue in errors(r)
    ]
    assert refused == []


def test_the_two_official_examples_that_are_wrong_are_refused() -> None:
    wrong = [r for r in official_examples() if (r["resourceType"], r.get("id")) in ERRATA]
    assert {(r["id"], *(f"{i.code} {i.path}" for i in errors(r))) for r in wrong} == {
        ("clinical-gender", "reference_target Observation.performer[0]"),
        ("medrx0301", "reference_target MedicationRequest.dispenseRequest.performer"),
    }


def _mutants() -> Iterator[Mutant]:
    valid = [r for r in official_examples() if (r["resourceType"], r.get("id")) not in ERRATA]
    for resource in golden_payloads() + valid[::16]:
        yield from corpus(resource)


@pytest.fixture(scope="module")
def missed() -> tuple[dict[str, int], dict[str, list[Any]]]:
    made: dict[str, int] = defaultdict(int)
    accepted: dict[str, list[Any]] = defaultdict(list)
    for label, path, mutant in _mutants():
        made[label] += 1
        if not errors(mutant):
            accepted[label].append((mutant["resourceType"], path))
    return made, accepted


@pytest.mark.parametrize(
    "label",
    [
        "missing required",
        "bad code, top-level",
        "bad code, nested",
        "wrong reference type",
        "bad reference",
        "reference to nothing contained",
        "two choices",
        "empty array",
        "empty object",
        "empty string",
        "null",
        "null in array",
        "not an array",
        "object as text",
        "string as number",
        "number as string",
        "text as boolean",
        "bad date",
        "id too long",
        "bad id",
        "unit not UCUM",
        "period reversed",
        "whitespace-only string",
        "control character",
        "code with outer whitespace",
        "unknown element",
    ],
)
def test_no_mutant_of_a_class_is_accepted(label: str, missed: tuple[dict[str, int], dict[str, list[Any]]]) -> None:
    made, accepted = missed
    assert made[label] > 0
    assert accepted[label] == []


@pytest.mark.parametrize("code", ["K/mm3", "109/L", "Mg/L", "mL/min/1.73"])
def test_a_unit_that_nobody_means_is_an_error_of_an_observation(code: str) -> None:
    spoilt = observation(valueQuantity={"value": 1, "system": UCUM, "code": code})
    assert [(i.code, i.severity) for i in validate(spoilt)] == [("ucum_meaning", "error")]


def test_every_common_unit_is_valid() -> None:
    for code in common_codes():
        assert validate(observation(valueQuantity={"value": 1, "system": UCUM, "code": code})) == [], code


def test_issues_hold_no_value_and_no_foreign_name() -> None:
    secret = "Mallory"
    spoilt = {
        **observation(),
        secret: secret,
        "status": secret,
        "effectiveDateTime": secret,
        "subject": {"reference": secret, secret: 1},
        "valueQuantity": {"value": secret, "unit": f"{secret}\x07", "system": UCUM, "code": secret},
    }
    assert validate(spoilt)
    assert secret not in repr(validate(spoilt))
    semantic = observation(subject={"reference": f"Slot/{secret}"}, valueQuantity={"value": 1, "system": UCUM, "code": secret})
    assert {issue.code for issue in validate(semantic)} == {"reference_target", "ucum"}
    assert secret not in repr(validate(semantic))


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ({"resourceType": "Observation", "status": "final"}, ("syntactic", "required", "Observation.code")),
        (observation(status="done"), ("syntactic", "binding", "Observation.status")),
        (observation(component=[{"valueInteger": 1}]), ("syntactic", "required", "Observation.component[0].code")),
        (observation(valueString="a", valueInteger=1), ("syntactic", "choice", "Observation.value[x]")),
        (observation(category=[]), ("syntactic", "empty", "Observation.category")),
        (observation(subject={}), ("syntactic", "empty", "Observation.subject")),
        (observation(subject={"id": "only"}), ("syntactic", "empty", "Observation.subject")),
        (observation(subject=None), ("syntactic", "type", "Observation.subject")),
        (observation(valueInteger=Decimal("1.0")), ("syntactic", "type", "Observation.valueInteger")),
        (observation(valueInteger=2**31), ("syntactic", "range", "Observation.valueInteger")),
        (observation(effectiveDateTime="2023-02-29"), ("syntactic", "format", "Observation.effectiveDateTime")),
        (observation(issued="2023-02-28"), ("syntactic", "format", "Observation.issued")),
        (observation(valeu="x"), ("syntactic", "unknown_element", "Observation.?")),
        (observation(onsetString="x"), ("syntactic", "unknown_element", "Observation.onsetString")),
        (observation(valueString="a" * 1_048_577), ("syntactic", "too_long", "Observation.valueString")),
        ({"resourceType": "Immunization"}, ("syntactic", "required", "Immunization.occurrence[x]")),
        ({"resourceType": "Encounter", "status": "x"}, ("syntactic", "unsupported_type", "resourceType")),
        ({"status": "final"}, ("syntactic", "unsupported_type", "resourceType")),
        ({"resourceType": ["Observation"]}, ("syntactic", "unsupported_type", "resourceType")),
        (observation(subject={"reference": "Slot/1"}), ("semantic", "reference_target", "Observation.subject")),
        (observation(subject={"reference": "Pateint/1"}), ("semantic", "reference_form", "Observation.subject")),
        (observation(subject={"reference": "Patient/1", "type": "Group"}), ("semantic", "reference_type", "Observation.subject")),
        (observation(subject={"type": "Slot"}), ("semantic", "reference_target", "Observation.subject")),
        (observation(subject={"reference": "#p"}), ("semantic", "ref-1", "Observation.subject")),
    ],
)
def test_a_fault_has_its_code_and_path(resource: Resource, expected: tuple[str, str, str]) -> None:
    assert expected in codes(resource)


@pytest.mark.parametrize(
    "reference",
    [
        "Patient/1",
        "Patient/1/_history/2",
        "https://ehr.example/fhir/Patient/1",
        "urn:uuid:04121321-4af5-424c-a0e1-ed3aab1c349d",
        "Patient?identifier=urn:x%7C1",
        "https://ehr.example/people/1",
    ],
)
def test_every_form_of_a_reference_to_an_allowed_type_is_taken(reference: str) -> None:
    assert validate(observation(subject={"reference": reference})) == []


@pytest.mark.parametrize(
    "value",
    ["2024-02-29", "2000-02-29", "2014", "2014-08", "2015-06-30T23:59:60Z", "0001-01-01", "2014-08-22T00:00:00.125+14:00"],
)
def test_real_dates_are_taken(value: str) -> None:
    assert validate(observation(effectiveDateTime=value)) == []


@pytest.mark.parametrize("value", ["1900-02-29", "2014-04-31", "0000-01-01", "2014-08-22T24:00:00Z", "2014-08-22T18:00:00+14:30"])
def test_dates_that_no_calendar_has_are_refused(value: str) -> None:
    assert {issue.code for issue in validate(observation(effectiveDateTime=value))} == {"format"}


def test_a_required_primitive_may_be_there_by_its_extension_alone() -> None:
    absent = {"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]}
    resource = observation()
    del resource["status"]
    assert ("syntactic", "required", "Observation.status") in codes(resource)
    assert validate({**resource, "_status": absent}) == []


def test_nulls_stand_only_beside_extensions_of_the_same_place() -> None:
    extension = {"extension": [{"url": "urn:x", "valueString": "x"}]}

    def patient(name: dict[str, Any]) -> Resource:
        return {"resourceType": "Patient", "name": [name]}

    assert validate(patient({"given": ["A", None], "_given": [None, extension]})) == []
    assert codes(patient({"given": ["A", None]})) == {("syntactic", "null", "Patient.name[0].given")}
    assert codes(patient({"given": ["A", None], "_given": [extension, None]})) == {
        ("syntactic", "null", "Patient.name[0]._given")
    }
    assert codes(patient({"given": ["A"], "_given": [None, extension]})) == {("syntactic", "null", "Patient.name[0]._given")}


def test_a_contained_resource_is_checked_like_any_other() -> None:
    medication = {"resourceType": "Medication", "id": "m", "status": "nonsense"}
    request = {
        "resourceType": "MedicationRequest",
        "contained": [medication],
        "status": "active",
        "intent": "order",
        "subject": {"reference": "Patient/1"},
        "medicationReference": {"reference": "#m"},
    }
    assert codes(request) == {("syntactic", "binding", "MedicationRequest.contained[0].status")}
    assert validate({**request, "contained": [{**medication, "status": "active"}]}) == []
    swapped = {**request, "contained": [{"resourceType": "Slot", "id": "m"}]}
    assert ("semantic", "reference_target", "MedicationRequest.medicationReference") in codes(swapped)


def test_what_is_contained_and_has_no_definitions_of_ours_is_read_by_fhir_resources_whatever_its_shape() -> None:
    slot = {
        "resourceType": "Slot",
        "id": "s",
        "schedule": {"reference": "Schedule/1"},
        "status": "free",
        "start": "2026-01-01T10:00:00Z",
        "end": "2026-01-01T11:00:00Z",
    }
    given = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "focus": [{"reference": "#s"}]}
    assert validate({**given, "contained": [slot]}) == []
    for wrong in ({**slot, "start": "next week"}, {**slot, "nonsense": 1}, {"resourceType": "Slot", "id": "s"}):
        assert {code for _, code, _ in codes({**given, "contained": [wrong]})} == {"model"}, wrong
    assert validate({**given, "contained": [slot]}) == []


def test_a_vital_sign_keeps_to_the_vital_signs_profiles() -> None:
    def vital(code: str, **more: Any) -> Resource:
        return observation(category=[VITAL_SIGNS], code={"coding": [{"system": LOINC, "code": code}]}, **more)

    def weight(unit: str) -> dict[str, Any]:
        return {"value": 70, "unit": unit, "system": UCUM, "code": unit}

    assert validate(vital("29463-7", effectiveDateTime="2014-08-22", valueQuantity=weight("kg"))) == []
    assert codes(vital("29463-7", valueQuantity=weight("cm"))) == {("semantic", "vs-unit", "Observation.valueQuantity.code")}
    assert codes(vital("29463-7", valueQuantity=weight("kg"), effectiveDateTime="2014")) == {
        ("semantic", "vs-1", "Observation.effectiveDateTime")
    }
    assert codes(vital("29463-7")) == {("semantic", "vs-2", "Observation")}
    panel = vital("85354-9", component=[{"code": {"coding": [{"system": LOINC, "code": "8480-6"}]}}])
    assert codes(panel) == {("semantic", "vs-3", "Observation.component[0]")}


def test_a_wrong_unit_is_an_error_in_an_observation_and_a_warning_in_a_dose() -> None:
    each = {"value": 1, "unit": "each", "system": UCUM, "code": "ea"}
    assert [i.severity for i in validate(observation(valueQuantity=each))] == ["error"]
    request = {
        "resourceType": "MedicationRequest",
        "status": "active",
        "intent": "order",
        "subject": {"reference": "Patient/1"},
        "medicationCodeableConcept": {"text": "x"},
        "dosageInstruction": [{"doseAndRate": [{"doseQuantity": each}]}],
    }
    assert [(i.code, i.severity) for i in validate(request)] == [("ucum", "warning")]


@pytest.mark.parametrize("depth", [300, 3000])
def test_a_bottomless_resource_is_an_issue_and_no_crash(depth: int) -> None:
    extension: dict[str, Any] = {"url": "urn:x", "valueString": "x"}
    for _ in range(depth):
        extension = {"url": "urn:x", "extension": [extension]}
    assert codes(observation(extension=[extension])) == {("syntactic", "too_deep", "Observation")}


def test_a_shape_is_the_set_of_paths_and_types_whatever_the_values_and_counts() -> None:
    one = observation(category=[VITAL_SIGNS], valueQuantity={"value": Decimal("1.5")})
    assert shape(one) == shape(observation(category=[VITAL_SIGNS] * 3, valueQuantity={"value": Decimal(7)}))
    assert shape(one) != shape(observation(category=[VITAL_SIGNS], valueQuantity={"value": 1}))
    assert shape(one) != shape(observation(category=[VITAL_SIGNS], valueQuantity={"value": Decimal(1), "unit": "x"}))
