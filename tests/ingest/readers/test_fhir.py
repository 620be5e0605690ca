"""Resources that an agent hands over are rows like any others: read by the contract, and never passed through with more."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fhir_writeback_dagster.canonical import to_json
from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.contracts.sources import load_source
from fhir_writeback_dagster.ingest.normalise.columns import Maker
from fhir_writeback_dagster.ingest.normalise.records import Normalised, normalise
from fhir_writeback_dagster.ingest.readers import read as readers

PATIENT = {
    "resourceType": "Patient",
    "id": "here-only",
    "identifier": [{"system": "urn:mrn", "value": "100"}],
    "name": [{"family": "Test", "given": ["Case"]}],
    "birthDate": "1970-01-02",
    "gender": "female",
}
WEIGHT: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "o1",
    "status": "final",
    "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "vital-signs"}]}],
    "code": {"coding": [{"system": "http://loinc.org", "code": "29463-7", "display": "Body weight"}]},
    "subject": {"reference": "urn:uuid:9c1"},
    "effectiveDateTime": "2025-03-01T08:00:00Z",
    "valueQuantity": {"value": 72.50, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"},
}
WEIGHT_TEXT = json.dumps(WEIGHT).replace("72.5", "72.50")


def bundle(*resources: dict[str, Any], kind: str = "collection", **entry: Any) -> str:
    entries = [{"fullUrl": "urn:uuid:9c1", "resource": PATIENT}, *({"resource": one, **entry} for one in resources)]
    return json.dumps({"resourceType": "Bundle", "type": kind, "entry": entries})


def changed(**change: Any) -> dict[str, Any]:
    return {**copy.deepcopy(WEIGHT), **change}


def component(code: str, value: int, system: str = "http://unitsofmeasure.org") -> dict[str, Any]:
    return {
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "valueQuantity": {"value": value, "unit": "mmHg", "system": system, "code": "mm[Hg]"},
    }


Told = Callable[..., Normalised]


def read_by(shipped: Path, version: int) -> Told:
    source = load_source(shipped, "fhir_agent", version)
    table = source.contract.tables["resources"]

    def read(text: str, relative_to: str | None = None) -> Normalised:
        frame = readers.read(text.encode(), table, whole=False, relative_to=relative_to)
        maker = Maker("fhir_agent", {}, "America/New_York", source.concept_maps)
        return normalise(frame, "resources", table, source.contract.actor, maker)

    return read


@pytest.fixture(params=[1, 2])
def told(shipped: Path, request: pytest.FixtureRequest) -> Told:
    return read_by(shipped, request.param)


@pytest.fixture
def by_url(shipped: Path) -> Told:
    """Version 2, which also reads whom an absolute reference names."""
    return read_by(shipped, 2)


def test_a_bundle_says_whose_its_resources_are(told: Any) -> None:
    made = told(bundle(WEIGHT))
    (record,) = made.records
    said = to_json(record.record)
    assert said["patient"] == {
        "identifiers": ({"system": "urn:mrn", "value": "100"},),
        "family": "Test",
        "given": "Case",
        "birth_date": "1970-01-02",
        "sex": "female",
    }
    assert (said["kind"], said["effective"], said["quantity"]["code"]) == ("vital_sign", "2025-03-01T08:00:00Z", "kg")
    assert made.others == {0: ("not_written", "reference_only", None)}


def test_a_resource_a_line_with_a_logical_reference_and_its_digits(told: Any) -> None:
    logical = '{"identifier": {"system": "urn:mrn", "value": "7"}}'
    lines = [WEIGHT_TEXT, json.dumps(changed(id="o2"))]
    made = told("\n".join(line.replace('{"reference": "urn:uuid:9c1"}', logical) for line in lines))
    assert [str(record.record.quantity.value) for record in made.records] == ["72.50", "72.5"]
    assert [record.identity for record in made.records] == [("resources", "o1", ""), ("resources", "o2", "")]


ONE = json.dumps(WEIGHT)


@pytest.mark.parametrize("text", [ONE, f"[{ONE}]", json.dumps(WEIGHT, indent=2), "\ufeff" + ONE])
def test_a_sender_s_own_id_is_nobody_we_know(told: Any, text: str) -> None:
    assert told(text).others[0][:2] == ("quarantined", "no_patient")


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        (changed(modifierExtension=[{"url": "urn:x", "valueBoolean": True}]), ("unknown_element", "modifierExtension")),
        (changed(interpretation=[{"text": "high"}]), ("unknown_element", "interpretation")),
        (changed(onsetDateTime="2020"), ("unknown_element", None)),
        (changed(**{"Test, Case": "72"}), ("unknown_element", None)),
        (changed(**{"code.text": "forged"}), ("unknown_element", None)),
        (changed(**{"@patient": {"identifier": {"0": {"system": "urn:mrn", "value": "7"}}}}), ("unknown_element", None)),
        (changed(code={"coding": {"0": WEIGHT["code"]["coding"][0]}}), ("unknown_element", "code")),
        (changed(meta={"security": [{"code": "R"}]}), ("unknown_element", "meta")),
        (changed(status="entered-in-error"), ("unknown_value", "status")),
        (changed(valueQuantity={"value": 72, "unit": "kg", "system": "urn:x"}), ("unknown_element", "valueQuantity")),
        (changed(component=[component("8480-6", 120), component("8462-4", 80, "urn:x")]), ("unknown_element", "component")),
        (changed(component=[component("8480-6", 120)] * 25), ("unknown_element", "component")),
        (changed(valueQuantity={**WEIGHT["valueQuantity"], "code": "stone"}), ("unknown_unit", "valueQuantity.code")),
        (changed(code={"coding": [{"system": "urn:local", "code": "W"}]}), ("unknown_code_system", "code.coding.0.system")),
        ({"resourceType": "MedicationRequest", "id": "m"}, ("no_patient", "subject.identifier.value")),
        ({"resourceType": "Nonsense", "id": "m"}, ("no_rule", None)),
    ],
    ids=lambda value: str(value[:2]) if isinstance(value, tuple) else "",
)
def test_what_the_contract_does_not_read_is_never_lost(told: Any, resource: dict[str, Any], reason: tuple[str, Any]) -> None:
    made = told(bundle(resource, WEIGHT))
    assert tuple(made.others[1]) == ("quarantined", *reason)
    assert len(made.records) == 1, "the good ones go on"


BOUND = {**WEIGHT["valueQuantity"], "comparator": "<"}


@pytest.mark.parametrize(
    ("version", "reason"),
    [(1, ("unknown_element", "valueQuantity")), (2, ("comparator_not_allowed", "valueQuantity.comparator"))],
)
def test_a_vital_sign_has_no_comparator(shipped: Path, version: int, reason: tuple[str, str]) -> None:
    made = read_by(shipped, version)(bundle(changed(valueQuantity=BOUND)))
    assert tuple(made.others[1]) == ("quarantined", *reason)


def test_a_laboratory_s_value_may_be_a_bound(by_url: Told) -> None:
    category = [{"coding": [{"code": "laboratory"}]}]
    (record,) = by_url(bundle(changed(category=category, valueQuantity=BOUND))).records
    assert to_json(record.record)["quantity"]["comparator"] == "<"


WHO = {"identifier": {"system": "urn:mrn", "value": "7"}}
SNOMED = {"coding": [{"system": "http://snomed.info/sct", "code": "138875005", "display": "One"}], "text": "one"}
CLINICAL = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]}
CONDITION_CATEGORY = "http://terminology.hl7.org/CodeSystem/condition-category"
NOTE = {"contentType": "text/plain", "data": "YSBub3Rl", "title": "Note"}
OTHERS: dict[str, dict[str, Any]] = {
    "vital_sign": {
        **{name: part for name, part in WEIGHT.items() if name != "valueQuantity"},
        "code": {"coding": [{"system": "http://loinc.org", "code": "85354-9"}]},
        "component": [component("8480-6", 120), component("8462-4", 80)],
        "subject": WHO,
    },
    "observation": {
        "resourceType": "Observation", "status": "final", "subject": WHO, "effectiveDateTime": "2025-03-01",
        "category": [{"coding": [{"code": "social-history"}]}], "code": SNOMED, "valueCodeableConcept": SNOMED,
    },
    "condition": {
        "resourceType": "Condition", "subject": WHO, "code": SNOMED, "clinicalStatus": CLINICAL, "onsetDateTime": "2024-02",
        "category": [{"coding": [{"system": CONDITION_CATEGORY, "code": "problem-list-item"}]}],
    },
    "medication_request": {
        "resourceType": "MedicationRequest", "subject": WHO, "status": "active", "intent": "order", "authoredOn": "2025-03-01",
        "medicationCodeableConcept": {"coding": [{"system": "http://www.nlm.nih.gov/research/umls/rxnorm", "code": "1"}]},
        "dosageInstruction": [{"text": "1 daily"}],
    },
    "allergy": {
        "resourceType": "AllergyIntolerance", "patient": WHO, "code": SNOMED, "type": "allergy", "category": ["food"],
        "criticality": "high", "clinicalStatus": CLINICAL,
    },
    "immunization": {
        "resourceType": "Immunization", "patient": WHO, "status": "completed", "occurrenceDateTime": "2025-03-01",
        "vaccineCode": {"coding": [{"system": "http://hl7.org/fhir/sid/cvx", "code": "140"}]}, "primarySource": True,
    },
    "procedure": {
        "resourceType": "Procedure", "subject": WHO, "status": "completed", "code": SNOMED,
        "performedPeriod": {"start": "2025-03-01T08:00:00Z", "end": "2025-03-01T09:00:00Z"},
    },
    "document": {
        "resourceType": "DocumentReference", "subject": WHO, "status": "current", "docStatus": "final",
        "date": "2025-03-01T08:00:00Z", "type": {"coding": [{"system": "http://loinc.org", "code": "11506-3"}]},
        "content": [{"attachment": NOTE}],
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_every_kind_that_an_agent_may_hand_over(told: Any, kind: str) -> None:
    made = told(json.dumps({"id": "x1", **OTHERS[kind]}))
    assert not made.others
    assert [record.record.kind for record in made.records] == [kind]


def test_a_blood_pressure_has_both_components(told: Any) -> None:
    (record,) = told(json.dumps(OTHERS["vital_sign"])).records
    assert [str(part.quantity.value) for part in record.record.components] == ["120", "80"]


CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"


def test_labels_come_along_whatever_the_contract_names(told: Any) -> None:
    security = [{"system": CONFIDENTIALITY, "code": "R", "display": "restricted"}, {"system": "urn:local", "code": "VIP"}]
    labelled, plain = told(bundle(changed(meta={"security": security}), changed(id="o2"))).records
    assert [(label.system, label.code) for label in labelled.record.labels] == [(CONFIDENTIALITY, "R"), ("urn:local", "VIP")]
    assert plain.record.labels is None


def test_the_labels_of_a_bundle_hold_for_all_that_is_in_it(told: Any) -> None:
    of_bundle = {"system": CONFIDENTIALITY, "code": "R"}
    given = json.loads(bundle(changed(meta={"security": [{"system": "urn:local", "code": "VIP"}]}), changed(id="o2")))
    one, other = told(json.dumps({**given, "meta": {"security": [of_bundle]}})).records
    assert [label.code for label in one.record.labels] == ["VIP", "R"]
    assert [label.code for label in other.record.labels] == ["R"]
    assert told(json.dumps({**given, "meta": {"security": "secret"}})).records == []


@pytest.mark.parametrize("label", [{"code": "R"}, {"system": CONFIDENTIALITY}, {"display": "secret"}])
def test_a_label_that_is_no_code_of_a_system_is_not_lost(told: Any, label: dict[str, str]) -> None:
    made = told(bundle(changed(meta={"security": [label]}), changed(id="o2")))
    assert len(made.records) == 1
    assert (made.others[1].reason, made.others[1].column) == ("unknown_element", "meta")


def test_narrative_and_translations_say_nothing_else(told: Any) -> None:
    code = {"coding": [*WEIGHT["code"]["coding"], {"system": "urn:local", "code": "W"}]}
    made = told(bundle(changed(text={"status": "generated", "div": "<div>72 kg</div>"}, code=code)))
    assert len(made.records) == 1


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        (WEIGHT_TEXT + '\n{"resourceType": "Obs', "bad_json", 2),
        (WEIGHT_TEXT[:-20], "bad_json", 1),
        ("7", "bad_json", 1),
        ("[]7", "bad_json", 1),
        ('{"a": 1}', "bad_json", 1),
        ("[1]", "bad_json", 1),
        ("[" * 100_000, "bad_json", 1),
        ('{"resourceType": "Bundle", "entry": [{"request": {"method": "DELETE", "url": "Patient/1"}}]}', "bad_bundle", 1),
        ('{"resourceType": "Bundle", "entry": 7}', "bad_bundle", 1),
        ('{"resourceType": "Bundle", "entry": [{"resource": {"id": "1"}}]}', "bad_json", 1),
        ("", "empty_file", None),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_whole_with_its_line(told: Any, text: str, code: str, line: int | None) -> None:
    with pytest.raises(ExtractRefused) as refused:
        told(text)
    assert (refused.value.code, refused.value.line) == (code, line)


def test_a_bundle_that_deletes_is_refused(told: Any) -> None:
    with pytest.raises(ExtractRefused, match="bad_bundle"):
        told(bundle(WEIGHT, kind="transaction", request={"method": "DELETE", "url": "Observation/1"}))
    assert len(told(bundle(WEIGHT, kind="transaction", request={"method": "POST", "url": "Observation"})).records) == 1


_NAMES = st.sampled_from(["code", "coding", "0", "a.b", "@x"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(_NAMES, part, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(sorted(WEIGHT)), _JSON, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_resource_is_read_kept_aside_or_refused(by_url: Told, parts: dict[str, Any]) -> None:
    try:
        made = by_url(json.dumps([{**WEIGHT, **parts}]))
    except ExtractRefused:
        return
    assert len(made.records) + len(made.others) == 1


def test_a_page_of_empty_documents_has_no_rows(told: Any) -> None:
    assert told('{"resourceType": "Bundle", "type": "collection"}').records == []


EHR = "https://ehr.mercy.example/fhir"
URI = "urn:ietf:rfc:3986"


def about(subject: str, **more: Any) -> str:
    return json.dumps(changed(subject={"reference": subject}, **more))


def identifiers(made: Normalised) -> list[tuple[str, str]]:
    (record,) = made.records
    return [(i.system, i.value) for i in record.record.patient.identifiers]


@pytest.mark.parametrize("reference", [f"{EHR}/Patient/123", f"{EHR}/Patient/123/_history/2", f"{EHR}/Patient/123/"])
def test_an_absolute_reference_is_an_identifier(by_url: Told, reference: str) -> None:
    assert identifiers(by_url(about(reference))) == [(URI, f"{EHR}/Patient/123")]


def test_an_encounter_may_be_named_by_url_too(by_url: Told) -> None:
    (record,) = by_url(about(f"{EHR}/Patient/1", encounter={"reference": f"{EHR}/Encounter/2"})).records
    assert [(i.system, i.value) for i in record.record.encounter] == [(URI, f"{EHR}/Encounter/2")]


@pytest.mark.parametrize(
    "reference",
    [
        "Patient/123",
        "Patient/123/_history/2",
        "urn:uuid:77",
        f"{EHR}/Group/1",
        f"{EHR}/Patient?identifier=urn:mrn|1",
        "#p",
        "123",
    ],
)
def test_what_names_no_patient_by_url_is_nobody_we_know(by_url: Told, reference: str) -> None:
    assert by_url(about(reference)).others[0][:2] == ("quarantined", "no_patient")


@pytest.mark.parametrize("reference", ["Patient/123", "Patient/123/_history/2", "Patient/123/"])
def test_a_relative_reference_is_the_ehr_s_where_the_tenant_says_so(by_url: Told, reference: str) -> None:
    assert identifiers(by_url(about(reference), relative_to=EHR)) == [(URI, f"{EHR}/Patient/123")]


@pytest.mark.parametrize(
    "reference", ["Group/1", "urn:uuid:77", "patient/1", "Patient/1/2", "Patient", "../Patient/1", "#Patient/1"]
)
def test_what_is_no_relative_reference_to_a_patient_stays_nobody(by_url: Told, reference: str) -> None:
    assert by_url(about(reference), relative_to=EHR).others[0][:2] == ("quarantined", "no_patient")


def test_a_patient_of_the_bundle_is_known_by_what_it_bears_and_by_the_url_that_names_it(by_url: Told) -> None:
    theirs = "https://agent.example/fhir/Patient/here-only"
    entries = [{"fullUrl": theirs, "resource": PATIENT}, {"resource": changed(subject={"reference": theirs})}]
    made = by_url(json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}))
    assert identifiers(made) == [(URI, theirs), ("urn:mrn", "100")]


@pytest.mark.parametrize("reference", ["urn:uuid:9c1", "Patient/here-only", "Patient/here-only/_history/3"])
def test_a_reference_within_the_bundle_needs_no_url(by_url: Told, reference: str) -> None:
    assert identifiers(by_url(bundle(changed(subject={"reference": reference})))) == [("urn:mrn", "100")]


def test_a_resource_that_is_no_patient_lends_nobody_its_identifiers(told: Told) -> None:
    group = {"resourceType": "Group", "id": "g", "identifier": [{"system": "urn:mrn", "value": "100"}]}
    made = told(bundle(group, changed(subject={"reference": "Group/g"})))
    assert made.others[2][:2] == ("quarantined", "no_patient")


def of_patient(mrn: str) -> str:
    who = {**PATIENT, "id": "p", "identifier": [{"system": "urn:mrn", "value": mrn}]}
    what = changed(id=f"o{mrn}", subject={"reference": "Patient/p"})
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": [{"resource": who}, {"resource": what}]})


def test_two_bundles_of_a_file_may_call_two_patients_by_one_id(told: Told) -> None:
    made = told("\n".join([of_patient("1"), of_patient("2")]))
    found = {r.identity[1]: r.record.patient.identifiers[0].value for r in made.records}
    assert found == {"o1": "1", "o2": "2"}


def test_an_id_that_two_patients_of_a_file_claim_is_nobody(told: Told) -> None:
    alone = about("Patient/p", id="alone")
    made = told("\n".join([of_patient("1"), of_patient("2"), alone]))
    assert [r.identity[1] for r in made.records] == ["o1", "o2"]
    assert made.others[4][:2] == ("quarantined", "no_patient")


def test_a_sender_s_column_never_passes_for_the_url(by_url: Told) -> None:
    made = by_url(json.dumps(changed(**{"@patient": f"{EHR}/Patient/1"})))
    assert made.others[0].reason in ("no_patient", "unknown_element")
    assert not made.records
