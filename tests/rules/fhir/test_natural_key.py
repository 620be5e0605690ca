"""The natural key: does a chart resource tell of the fact that our payload tells of?"""

from __future__ import annotations

from typing import Any

import pytest

from fhir_writeback_dagster.rules.fhir.codes import concept_key
from fhir_writeback_dagster.rules.fhir.natural_key import natural_key, same_fact

LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"


def observation(*codes: str, at: str | None = "2014-08-22T18:34:30Z", **more: Any) -> dict[str, Any]:
    code = {"coding": [{"system": LOINC, "code": code} for code in codes]}
    return {"resourceType": "Observation", "code": code, **({"effectiveDateTime": at} if at else {}), **more}


def condition(code: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Condition", "code": {"coding": [{"system": SNOMED, "code": code}]}, **more}


def test_it_is_type_code_and_utc_second() -> None:
    assert natural_key(observation("8302-2", at="2014-08-22T14:34:30.5-04:00")) == (
        "Observation",
        "http://loinc.org|8302-2",
        "2014-08-22T18:34:30Z",
    )


def test_value_status_ids_and_narrative_are_not_in_it() -> None:
    ours = observation("8302-2", status="final", valueInteger=1)
    theirs = observation("8302-2", id="9", status="amended", valueInteger=2, text={"div": "x"}, identifier=[{"value": "z"}])
    assert natural_key(ours) == natural_key(theirs)


@pytest.mark.parametrize(
    "resource",
    [
        {"resourceType": "Patient", "id": "1"},
        {"resourceType": "Encounter"},
        {},
        observation("8302-2", at=None),
        observation(),
        {"resourceType": "MedicationRequest", "medicationReference": {"reference": "Medication/1"}, "authoredOn": "2014"},
    ],
)
def test_what_has_no_code_or_time_has_no_natural_key(resource: dict[str, Any]) -> None:
    assert natural_key(resource) is None
    assert not same_fact(resource, resource)


@pytest.mark.parametrize(
    ("resource", "time"),
    [
        (condition("1", onsetDateTime="2014-05-06T04:34:30-04:00"), "2014-05-06"),
        (condition("1", onsetPeriod={"start": "2014-05-06"}), "2014-05-06"),
        (condition("1", recordedDate="2014-05-06"), "2014-05-06"),
        (condition("1"), ""),
        (observation("1", at=None, effectivePeriod={"start": "2014-05-06T00:00:00Z"}), "2014-05-06T00:00:00Z"),
        (observation("1", at=None, effectiveInstant="2014-05-06T00:00:00Z"), "2014-05-06T00:00:00Z"),
    ],
)
def test_the_time_is_found_wherever_a_type_keeps_it(resource: dict[str, Any], time: str) -> None:
    key = natural_key(resource)
    assert key is not None
    assert key[2] == time


def test_a_translation_in_the_chart_is_the_same_fact() -> None:
    ours = condition("38341003", onsetDateTime="2014-05-06")
    theirs = condition("38341003", onsetDateTime="2014-05-06")
    theirs["code"]["coding"].append({"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "I10"})
    assert same_fact(ours, theirs)
    icd = condition("x", onsetDateTime="2014-05-06")
    icd["code"]["coding"] = [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "I10"}]
    assert natural_key(icd) != natural_key(theirs)
    assert same_fact(icd, theirs)


def test_a_date_in_the_chart_may_be_our_instant_but_two_instants_of_a_day_are_two_facts() -> None:
    assert same_fact(observation("1", at="2014-08-22T01:00:00Z"), observation("1", at="2014-08-22"))
    assert same_fact(observation("1", at="2014-08-22"), observation("1", at="2014-08-22T01:00:00Z"))
    assert same_fact(observation("1", at="2014-08-21T23:00:00-04:00"), observation("1", at="2014-08-22"))
    assert not same_fact(observation("1", at="2014-08-22T01:00:00Z"), observation("1", at="2014-08-22T02:00:00Z"))
    assert not same_fact(observation("1"), observation("2"))


def test_an_allergy_is_one_whenever_it_began() -> None:
    peanut = {"resourceType": "AllergyIntolerance", "code": {"text": "Peanut"}, "recordedDate": "2014"}
    assert same_fact(peanut, {**peanut, "recordedDate": "1999", "code": {"text": " PEANUT"}})


def test_the_coding_that_counts_does_not_depend_on_the_order_of_codings() -> None:
    codings = [{"system": "urn:local", "code": "a"}, {"system": SNOMED, "code": "2"}, {"system": LOINC, "code": "9"}]
    assert concept_key(codings, None) == concept_key(codings[::-1], "text") == "http://loinc.org|9"
    same_system = [{"system": LOINC, "code": "8331-1"}, {"system": LOINC, "code": "8310-5"}]
    assert concept_key(same_system, None) == concept_key(same_system[::-1], None) == "http://loinc.org|8310-5"
