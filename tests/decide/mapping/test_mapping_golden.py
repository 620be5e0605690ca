"""Golden payloads: what each pinned version of a mapping makes of the cases that are easy to get wrong.

A version is immutable: its file's SHA-256 stands in ``tests/golden/versions.json``. To change what a mapping makes, add a
version with golden payloads of its own.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.canonical import KINDS, from_json
from fhir_writeback_dagster.decide.mapping.versions import Refs, load_mapping
from fhir_writeback_dagster.decide.validation.validate import validate
from fhir_writeback_dagster.rules.fhir.content import same_content

ROOT = Path(__file__).resolve().parents[3]
MAPPINGS = ROOT / "mappings" / "fhir"
GOLDEN = ROOT / "tests" / "golden"
CASES = sorted(GOLDEN.glob("*/*.json"))


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = canonicaljson.decode(path.read_bytes())
    return loaded


@pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_record_becomes_exactly_the_pinned_payload(path: Path) -> None:
    case = load(path)
    kind, _, version = case["mapping"].partition("/")
    mapping = load_mapping(MAPPINGS, kind, int(version))
    payload = mapping.render(case["record"], Refs(**case["refs"]))
    assert canonicaljson.encode(payload) == canonicaljson.encode(case["payload"])  # digits of decimals included
    assert list(mapping.identity(case["record"])) == case["identity"]


@pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_golden_record_is_canonical_and_its_payload_is_valid(path: Path) -> None:
    case = load(path)
    assert from_json(case["record"]).kind == path.parent.name
    assert validate(case["payload"]) == []


def test_no_shipped_version_was_changed_after_it_was_pinned() -> None:
    pinned: dict[str, str] = json.loads((GOLDEN / "versions.json").read_text())
    shipped = {f"{p.parent.name}/{p.stem}": hashlib.sha256(p.read_bytes()).hexdigest() for p in MAPPINGS.glob("*/*.yaml")}
    assert shipped == pinned, "a version is immutable: add a new one, pin it in tests/golden/versions.json"


def test_every_version_has_a_golden_payload() -> None:
    covered = {load(path)["mapping"] for path in CASES}
    assert covered == {f"{p.parent.name}/{p.stem}" for p in MAPPINGS.glob("*/*.yaml")}
    assert {name.partition("/")[0] for name in covered} == set(KINDS)


def golden(name: str) -> dict[str, Any]:
    return load(GOLDEN / f"{name}.json")


def test_one_fact_in_two_units_and_two_offsets_is_one_identity() -> None:
    metric, imperial = golden("vital_sign/height"), golden("vital_sign/height_other_unit")
    assert metric["identity"] == imperial["identity"]
    assert metric["payload"]["valueQuantity"] != imperial["payload"]["valueQuantity"]


def test_a_corrected_time_is_another_fact() -> None:
    assert golden("vital_sign/height")["identity"] != golden("vital_sign/corrected_time")["identity"]


def test_a_corrected_patient_changes_whom_the_payload_is_about_and_nothing_else_that_is_said() -> None:
    was, now = golden("vital_sign/height"), golden("vital_sign/corrected_patient")
    differing = {
        key for key in was["payload"].keys() | now["payload"].keys() if was["payload"].get(key) != now["payload"].get(key)
    }
    assert differing == {"subject", "encounter", "identifier"}
    assert was["identity"] == now["identity"]  # the person comes into the business key beside the mapping's fields


HARD_CASES = {
    "duplicate demographics": "vital_sign/duplicate_demographics",
    "missing identifiers": "lab_result/missing_identifiers",
    "unusual units": "lab_result/unusual_units",
    "partial encounter": "vital_sign/partial_encounter",
    "updated, not created": "patient/new_phone",
    "grouped rows": "vital_sign/blood_pressure",
    "corrected value": "lab_result/glucose_corrected",
    "below detection": "lab_result/below_detection",
    "corrected time": "vital_sign/corrected_time",
    "corrected patient": "vital_sign/corrected_patient",
}


@pytest.mark.parametrize("name", HARD_CASES.values(), ids=HARD_CASES)
def test_every_hard_case_is_pinned(name: str) -> None:
    assert GOLDEN / f"{name}.json" in CASES


@pytest.mark.parametrize("name", ["vital_sign/duplicate_demographics", "lab_result/missing_identifiers"])
def test_demographics_of_a_row_are_never_written_with_it(name: str) -> None:
    case = golden(name)
    who = case["record"]["patient"]
    text = canonicaljson.encode(case["payload"]).decode()
    assert not any(who[field] in text for field in ("family", "given", "birth_date"))
    assert case["payload"]["subject"] == {"reference": case["refs"]["patient"]}


def test_a_corrected_value_is_the_same_fact() -> None:
    before, after = golden("lab_result/glucose"), golden("lab_result/glucose_corrected")
    assert before["identity"] == after["identity"]
    assert before["payload"]["identifier"] == after["payload"]["identifier"]
    assert before["payload"]["valueQuantity"] != after["payload"]["valueQuantity"]
    assert after["payload"]["status"] == "corrected"


def test_a_bound_and_a_value_of_the_same_number_are_one_fact_and_two_contents() -> None:
    bound, value = golden("lab_result/below_detection"), golden("lab_result/below_detection_measured")
    assert bound["identity"] == value["identity"]
    assert not same_content(bound["payload"], {**value["payload"], "status": "final"})
    assert not same_content({**value["payload"], "status": "final"}, bound["payload"])


@pytest.mark.parametrize("name", ["progress_note", "pdf_of_a_day"])
def test_a_document_is_a_us_core_clinical_note(name: str) -> None:
    """US Core 7.0.0, DocumentReference: what the profile requires, its bindings, and the attachment's rule us-core-6."""
    payload = golden(f"document/{name}")["payload"]
    assert payload["status"] == "current"
    assert [coding["system"] for coding in payload["type"]["coding"]][:1] == ["http://loinc.org"]
    category = payload["category"][0]["coding"][0]
    assert (category["system"], category["code"]) == (
        "http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category",
        "clinical-note",
    )
    assert payload["subject"]["reference"].startswith("Patient/")
    (content,) = payload["content"]
    assert content["attachment"]["contentType"] in {"text/plain;charset=utf-8", "application/pdf"}
    assert content["attachment"]["data"]


def test_an_update_of_a_patient_names_only_what_the_row_names() -> None:
    case = golden("patient/new_phone")
    assert load_mapping(MAPPINGS, "patient", 1).interaction == "update"
    assert case["payload"].keys() == {"resourceType", "id", "telecom"}
