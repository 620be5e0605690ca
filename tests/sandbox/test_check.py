"""The checker tells what an EHR got wrong: each fault that it is there to find is made on a real server."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from fhir_writeback_dagster.sandbox.check import look, versions
from fhir_writeback_dagster.sandbox.servers.sekmet import Sekmet
from fhir_writeback_dagster.sandbox.story.expected import FactKey, Value

SYSTEM = "https://mercy.example/write-back"
FACT = FactKey("Observation", "m-001", "718-7", "2025-03-05T15:00:00Z")
FACTS = {FACT: {Value((("718-7", Decimal("13.2"), "g/dL"),))}}


def _observation(**changes: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "status": "final",
        "identifier": [{"system": SYSTEM, "value": "key-1"}],
        "code": {"coding": [{"system": "urn:local", "code": "HB"}, {"system": "http://loinc.org", "code": "718-7"}]},
        "subject": {"reference": "Patient/m-001"},
        "effectiveDateTime": "2025-03-05T10:00:00-05:00",
        "valueQuantity": {"value": 13.2, "unit": "g/dL", "system": "http://unitsofmeasure.org", "code": "g/dL"},
    } | changes


def _with(sekmet: Sekmet, *resources: dict[str, Any]) -> Sekmet:
    for resource in resources:
        sekmet.chart.create(resource)
    return sekmet


def test_what_stands_as_planted_is_no_deviation(sekmet: Sekmet) -> None:
    finding = look(_with(sekmet, _observation()).chart, SYSTEM, FACTS)
    assert (finding.found, finding.duplicates, finding.deviations) == (1, 0, ())


def test_a_second_resource_under_one_identifier_is_a_duplicate(sekmet: Sekmet) -> None:
    finding = look(_with(sekmet, _observation(), _observation()).chart, SYSTEM, FACTS)
    assert (finding.found, finding.duplicates) == (2, 1)
    assert finding.deviations == ("2 times: Observation 718-7 at 2025-03-05T15:00:00Z of m-001",)


def test_a_fact_told_twice_under_two_identifiers_is_found_too(sekmet: Sekmet) -> None:
    other = _observation(identifier=[{"system": SYSTEM, "value": "key-2"}])
    finding = look(_with(sekmet, _observation(), other).chart, SYSTEM, FACTS)
    assert finding.duplicates == 0
    assert len(finding.deviations) == 1


def test_a_lost_write_is_missing(sekmet: Sekmet) -> None:
    assert look(sekmet.chart, SYSTEM, FACTS).deviations == ("missing: Observation 718-7 at 2025-03-05T15:00:00Z of m-001",)


def test_another_value_unit_patient_or_time_deviates(sekmet: Sekmet) -> None:
    quantity = _observation()["valueQuantity"]
    for wrong in (
        {"valueQuantity": quantity | {"value": 14.2}},
        {"valueQuantity": quantity | {"code": "g/L"}},
        {"subject": {"reference": "Patient/m-002"}},
        {"effectiveDateTime": "2025-03-05T10:00:00-04:00"},
    ):
        sekmet.wipe()
        assert look(_with(sekmet, _observation(**wrong)).chart, SYSTEM, FACTS).deviations, wrong


def test_what_others_filed_is_not_ours(sekmet: Sekmet) -> None:
    foreign = _observation(identifier=[{"system": "urn:lis", "value": "key-1"}])
    assert look(_with(sekmet, foreign).chart, SYSTEM, {}) == look(sekmet.chart, SYSTEM, {})
    assert look(sekmet.chart, SYSTEM, {}).found == 0


def test_an_identical_update_is_a_write_too(sekmet: Sekmet) -> None:
    stored = sekmet.chart.create(_observation())
    before = versions(sekmet.chart)
    sekmet.chart.update(stored)
    assert versions(sekmet.chart) == before + 1
