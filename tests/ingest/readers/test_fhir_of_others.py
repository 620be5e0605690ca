"""FHIR as others make it: what it says is read, what it says twice and differently is refused with its reason."""

from __future__ import annotations

import copy
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fhir_writeback_dagster.canonical import to_json
from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.contracts.sources import load_source
from fhir_writeback_dagster.ingest.normalise.columns import Maker
from fhir_writeback_dagster.ingest.normalise.records import Normalised, normalise
from fhir_writeback_dagster.ingest.readers import read as readers

UCUM = "http://unitsofmeasure.org"
LOINC = "http://loinc.org"
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
Resource = dict[str, Any]


def observation(loinc: str, *, category: str = "laboratory", **elements: Any) -> Resource:
    return {
        "resourceType": "Observation",
        "id": "o1",
        "status": "final",
        "category": [{"coding": [{"system": CATEGORY, "code": category}]}],
        "code": {"coding": [{"system": LOINC, "code": loinc}]},
        "subject": {"identifier": {"system": "urn:mrn", "value": "100"}},
        "effectiveDateTime": "2024-06-01T10:00:00Z",
        **elements,
    }


def quantity(value: float, unit: str, code: str | None = None) -> Resource:
    return {"valueQuantity": {"value": value, "unit": unit, "system": UCUM, "code": code or unit}}


@pytest.fixture(scope="module")
def source(shipped: Path) -> Any:
    return load_source(shipped, "fhir_agent", 2)


@pytest.fixture
def told(source: Any) -> Any:
    table = source.contract.tables["resources"]

    def read(*resources: Resource | str) -> Normalised:
        text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in resources)
        frame = readers.read(text.encode(), table, whole=False)
        maker = Maker("fhir_agent", {}, "America/New_York", source.concept_maps, offset_required=True)
        return normalise(frame, "resources", table, source.contract.actor, maker)

    return read


def only(made: Normalised) -> Resource:
    assert not made.others, made.others
    (record,) = made.records
    return to_json(record.record)


def reason(made: Normalised) -> str:
    assert not made.records, [to_json(record.record) for record in made.records]
    (other,) = made.others.values()
    assert other.disposition == "quarantined"
    return other.reason


@pytest.mark.parametrize(
    ("resource", "why"),
    [
        (observation("29463-7", category="vital-signs", **quantity(80, "kg", "[lb_av]")), "unit_contradicts_code"),
        (observation("2345-7", **quantity(5.6, "mmol/L", "mg/dL")), "unit_contradicts_code"),
        (observation("2345-7", **quantity(5.6, "mmol/L")), "unit_unexpected"),
        (observation("2823-3", **quantity(4, "mmol/L"), valueString="four"), "two_values"),
        (observation("2823-3", **quantity(4, "mmol/L"), effectiveInstant="2024-06-01T10:00:00Z"), "two_values"),
        (
            observation(
                "2823-3",
                **quantity(4, "mmol/L"),
                code={"coding": [{"system": LOINC, "code": "2823-3", "display": "Sodium [Moles/volume] in Serum or Plasma"}]},
            ),
            "display_contradicts_code",
        ),
        (
            observation(
                "2823-3",
                **quantity(4, "mmol/L"),
                code={"coding": [{"system": LOINC, "code": "2823-3"}, {"system": LOINC, "code": "2951-2"}]},
            ),
            "codings_contradict",
        ),
        (observation("2823-3", **quantity(4, "mmol/L"), effectiveDateTime="2024-06-01T10:00:00"), "no_offset"),
        (observation("2823-4", **quantity(4, "mmol/L")), "bad_code"),
        (observation("8302-2", category="vital-signs", **quantity(5.4333, "ft", "ft")), None),
    ],
)
def test_what_contradicts_itself_is_for_a_person(told: Any, resource: Resource, why: str | None) -> None:
    made = told(resource)
    if why is None:
        assert only(made)["quantity"]["code"] == "[ft_i]"
    else:
        assert reason(made) == why


def test_an_end_that_nobody_has_seen_resolves_nothing(told: Any) -> None:
    condition = {
        "resourceType": "Condition",
        "id": "c1",
        "category": [{"coding": [{"code": "problem-list-item"}]}],
        "clinicalStatus": {"coding": [{"code": "resolved"}]},
        "verificationStatus": {"coding": [{"code": "confirmed"}]},
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": "195967001"}]},
        "subject": {"identifier": {"system": "urn:mrn", "value": "100"}},
        "onsetDateTime": "2024-06-03",
        "abatementDateTime": "9999-12-31",
    }
    assert reason(told(condition)) == "status_contradicts_end"


def test_a_name_that_stands_twice_refuses_the_file(told: Any) -> None:
    text = json.dumps(observation("2823-3", **quantity(4.1, "mmol/L"))).replace('"value": 4.1', '"value": 4.1, "value": 6.9')
    with pytest.raises(ExtractRefused) as refused:
        told(observation("2951-2", **quantity(140, "mmol/L")), text)
    assert (refused.value.code, refused.value.line) == ("duplicate_name", 2)


@pytest.mark.parametrize(
    ("code", "unit", "ucum", "right"),
    [("785-6", "pg", "Pg", "pg"), ("1988-5", "mg/L", "Mg/L", "mg/L"), ("6690-2", "10^9/L", "109/L", "10*9/L")],
)
def test_what_can_mean_one_thing_only_is_read_and_said(told: Any, code: str, unit: str, ucum: str, right: str) -> None:
    record = only(told(observation(code, **quantity(12, unit, ucum))))
    assert record["quantity"]["code"] == right
    assert record["repairs"] == ({"field": "quantity", "rule": "unit", "was": ucum, "now": right},)


def test_the_standard_coding_counts_wherever_it_stands(told: Any) -> None:
    local = {"system": "urn:oid:1.2.840.114350", "code": "1520109", "display": "POTASSIUM", "userSelected": True}
    resource = observation("", **quantity(4.2, "mmol/L"))
    resource["code"]["coding"] = [local, {"system": LOINC, "code": "2823-3", "display": "Potassium"}]
    assert only(told(resource))["code"]["codings"][0]["code"] == "2823-3"


def test_the_category_that_counts_may_stand_after_the_sender_s_own(told: Any) -> None:
    resource = observation("72514-3", **quantity(3, "{score}"))
    resource["category"] = [
        {"coding": [{"system": "http://example.org/cat", "code": "Smartform"}]},
        {"coding": [{"system": CATEGORY, "code": "vital-signs"}]},
    ]
    assert only(told(resource))["kind"] == "vital_sign"


def test_who_measured_is_let_go_and_the_range_and_its_reading_are_kept(told: Any) -> None:
    bound = {"unit": "mmol/L", "system": UCUM, "code": "mmol/L"}
    resource = observation(
        "2075-0",
        **quantity(101, "mmol/L"),
        performer=[{"display": "Lab"}],
        referenceRange=[{"low": {"value": 98, **bound}, "high": {"value": 107, **bound}}],
        interpretation=[
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation", "code": "N"}]}
        ],
    )
    record = only(told(resource))
    assert (record["reference_low"]["value"], record["reference_high"]["value"]) == (98, 107)
    assert record["interpretation"]["codings"][0]["code"] == "N"


def test_a_unit_without_a_system_is_read_as_people_write_it(told: Any) -> None:
    resource = observation("8867-4", category="vital-signs", valueQuantity={"value": 72, "unit": "bpm"})
    assert only(told(resource))["quantity"]["code"] == "/min"


def test_a_note_beside_a_value_stays_a_note_and_never_becomes_the_value(told: Any) -> None:
    note = [{"text": "haemolysed"}]
    record = only(told(observation("2823-3", **quantity(4, "mmol/L"), note=note)))
    assert (record["text"], record["quantity"]["value"]) == ("haemolysed", 4)
    for value in ({"system": "urn:x", "code": "mmol/L", "value": 4}, {"system": UCUM, "code": "mmol/L"}):
        assert reason(told(observation("2823-3", valueQuantity=value, note=note))) in {"unknown_element", "missing_value"}


def order(**elements: Any) -> Resource:
    return {
        "resourceType": "MedicationRequest",
        "id": "m1",
        "status": "active",
        "intent": "order",
        "subject": {"identifier": {"system": "urn:mrn", "value": "100"}},
        "authoredOn": "2024-06-01",
        **elements,
    }


RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
METFORMIN = {"resourceType": "Medication", "id": "m", "code": {"coding": [{"system": RXNORM, "code": "860975"}]}}


def test_a_contained_medication_is_the_order_s(told: Any) -> None:
    record = only(told(order(contained=[METFORMIN], medicationReference={"reference": "#m"})))
    assert record["code"]["codings"][0]["code"] == "860975"


def test_a_contained_patient_is_the_subject(told: Any) -> None:
    patient = {"resourceType": "Patient", "id": "p", "identifier": [{"system": "urn:mrn", "value": "100"}]}
    record = only(told(observation("2823-3", **quantity(4.3, "mmol/L"), contained=[patient], subject={"reference": "#p"})))
    assert record["patient"]["identifiers"] == ({"system": "urn:mrn", "value": "100"},)


def test_a_contained_resource_that_nothing_reads_is_not_lost(told: Any) -> None:
    device = {"resourceType": "Device", "id": "d", "type": {"text": "a glucometer"}}
    assert reason(told(observation("2823-3", **quantity(4.3, "mmol/L"), contained=[device]))) == "unknown_element"


def test_bundles_in_a_bundle_are_read(told: Any) -> None:
    inner = {"resourceType": "Bundle", "type": "searchset"}
    one = {**inner, "entry": [{"resource": observation("2823-3", **quantity(3.9, "mmol/L"), id="n1")}]}
    two = {**inner, "entry": [{"resource": observation("2951-2", **quantity(139, "mmol/L"), id="n2")}]}
    entries = [{"resource": bundle, "response": {"status": "200"}} for bundle in (one, two)]
    made = told({"resourceType": "Bundle", "type": "batch-response", "entry": entries})
    assert [record.identity[1] for record in made.records] == ["n1", "n2"]
    assert not made.others


def test_labels_of_an_outer_bundle_hold_within(told: Any) -> None:
    label = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "HIV"}
    inner = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": observation("2823-3", **quantity(4, "mmol/L"))}],
    }
    outer = {"resourceType": "Bundle", "type": "collection", "meta": {"security": [label]}, "entry": [{"resource": inner}]}
    assert only(told(outer))["labels"] == (label,)


def test_every_component_is_read_in_the_sender_s_order(told: Any) -> None:
    def part(code: str, **value: Any) -> Resource:
        return {"code": {"coding": [{"system": LOINC, "code": code}]}, **value}

    answer = {"coding": [{"system": LOINC, "code": "LA32-8", "display": "No"}], "text": "No"}
    panel = observation(
        "93025-5",
        category="survey",
        component=[
            part("93027-1", valueCodeableConcept=answer),
            part("63512-8", **quantity(4, "{#}")),
            part("56799-0", valueString="1 Elm Street"),
            part("93038-8", valueCodeableConcept={"text": "Some"}),
        ],
    )
    components = only(told(panel))["components"]
    assert [one["code"]["codings"][0]["code"] for one in components] == ["93027-1", "63512-8", "56799-0", "93038-8"]
    assert (components[0]["concept"]["codings"][0]["code"], components[2]["text"]) == ("LA32-8", "1 Elm Street")


def test_a_dosage_is_put_into_words_or_waits(told: Any) -> None:
    dosage = {
        "sequence": 1,
        "text": "Take with food.",
        "asNeededBoolean": True,
        "timing": {"repeat": {"frequency": 1, "period": 6.0, "periodUnit": "h"}},
        "doseAndRate": [{"type": {"coding": [{"code": "ordered"}]}, "doseQuantity": {"value": 2}}],
        "additionalInstruction": [{"text": "Not with alcohol"}],
    }
    medication = {"medicationCodeableConcept": METFORMIN["code"]}
    record = only(told(order(**medication, dosageInstruction=[dosage])))
    assert record["dosage_text"] == "Take with food. dose 2, once every 6 hours, as needed. Not with alcohol."
    tapered: dict[str, Any] = copy.deepcopy(dosage)
    tapered["timing"]["repeat"]["boundsDuration"] = {"value": 5, "unit": "d"}
    assert reason(told(order(**medication, dosageInstruction=[tapered]))) == "unknown_element"
    assert reason(told(order(**medication, dosageInstruction=[dosage, dosage]))) == "unknown_element"


@pytest.mark.parametrize("depth", [300, 400, 490, 800, 3000])
def test_what_is_nested_for_ever_refuses_its_file_and_harms_nobody(told: Any, depth: int) -> None:
    inner = '[{"extension":' * depth + "1" + "}]" * depth
    with pytest.raises(ExtractRefused) as refused:
        told(f'{{"resourceType":"Observation","id":"x","extension":{inner}}}')
    assert refused.value.code in {"too_deep", "bad_json"}


def test_what_nobody_writes_is_told_apart_from_what_is_broken(told: Any) -> None:
    report = {"resourceType": "DiagnosticReport", "id": "r", "status": "final"}
    made = told(report, {"resourceType": "Location", "id": "l"}, {"resourceType": "Nonsense", "id": "x"})
    assert Counter(other[:2] for other in made.others.values()) == {
        ("not_written", "kind_not_written"): 1,
        ("not_written", "reference_only"): 1,
        ("quarantined", "no_rule"): 1,
    }


def test_every_resource_of_a_synthea_patient_that_is_of_a_written_kind_becomes_a_record(told: Any) -> None:
    """One patient of Synthea's own FHIR export, as it stands; older versions of documents are left out on purpose."""
    with tarfile.open(Path(__file__).parents[2] / "e2e" / "synthea.tar.xz") as archive:
        member = archive.extractfile("fhir/patient.json")
        assert member is not None
        text = member.read().decode()
    resources = [entry["resource"] for entry in json.loads(text)["entry"]]
    made = told(text)
    ends = Counter((resources[row]["resourceType"], other[:2]) for row, other in made.others.items())
    assert {end for _, end in ends} <= {("not_written", r) for r in ("reference_only", "kind_not_written", "superseded")}
    written = Counter(resources[record.rows[0]]["resourceType"] for record in made.records)
    for kind in ("Observation", "Condition", "MedicationRequest", "AllergyIntolerance", "Immunization", "Procedure"):
        assert written[kind] == sum(one["resourceType"] == kind for one in resources), kind
