"""Units, codes and identifiers on their way into a record: read with what the row measures, and said where they were repaired."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from fhir_writeback_dagster.canonical import to_json
from fhir_writeback_dagster.ingest.contracts.contract import Table
from fhir_writeback_dagster.ingest.contracts.row_rules import ActorFrom
from fhir_writeback_dagster.ingest.normalise.columns import Maker
from fhir_writeback_dagster.ingest.normalise.records import Normalised, normalise

LOINC, SNOMED, NDC = "http://loinc.org", "http://snomed.info/sct", "http://hl7.org/fhir/sid/ndc"
COLUMNS = {"id": "operational", "mrn": "chart", "at": "chart", "code": "chart", "value": "chart", "unit": "chart"}


def table(kind: str, fields: dict[str, Any], **more: Any) -> Table:
    read = {said for spec in fields.values() for said in spec.values() if isinstance(said, str)}
    document = {
        "files": "*",
        "format": "csv",
        "columns": {
            name: role if role == "operational" or name in {"mrn", *read} else "source_only" for name, role in COLUMNS.items()
        },
        "patient": {"identifiers": [{"column": "mrn", "system": "urn:mrn"}]},
        "identity": ["id"],
        "rows": [{"kind": kind, "fields": fields}],
    }
    return Table.model_validate(document | more)


LAB = table(
    "lab_result",
    {
        "effective": {"column": "at"},
        "code": {"column": "code", "system": LOINC},
        "quantity": {"column": "value", "unit_column": "unit"},
    },
)
CONDITION = table(
    "condition",
    {"code": {"column": "code", "system": SNOMED}, "onset": {"column": "at"}, "clinical_status": {"constant": "active"}},
)


def made(of: Table, choices: dict[str, str] | None = None, **row: str | None) -> Normalised:
    full = {"id": "1", "mrn": "100", "at": "2024-03-01", "code": "2823-3", "value": "4.2", "unit": "mmol/L"} | row
    frame = pl.DataFrame([full], schema=dict.fromkeys(COLUMNS, pl.String))
    return normalise(frame, "t", of, ActorFrom(), Maker("s", {}, "UTC", {}, choices=choices or {}))


def only(found: Normalised) -> dict[str, Any]:
    assert not found.others, found.others
    return to_json(found.records[0].record)


def why(found: Normalised) -> tuple[str, str | None]:
    return found.others[0].reason, found.others[0].column


def test_a_repair_is_said_in_the_record() -> None:
    record = only(made(LAB, code="6690-2", unit="109/L"))
    assert record["quantity"]["code"] == "10*9/L"
    assert record["repairs"] == ({"field": "quantity", "rule": "unit", "was": "109/L", "now": "10*9/L"},)
    assert "repairs" not in only(made(LAB))


def test_equivalents_become_moles_by_the_valence() -> None:
    record = only(made(LAB, code="2000-8", value="5.0", unit="mEq/L"))
    assert (str(record["quantity"]["value"]), record["quantity"]["code"]) == ("2.5", "mmol/L")
    assert record["repairs"][0]["rule"] == "valence"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"unit": "109/L"}, ("ambiguous_unit", "unit")),
        ({"code": "5206-8", "unit": "109/L"}, ("ambiguous_unit", "unit")),
        ({"unit": "furlongs"}, ("unknown_unit", "unit")),
        ({"unit": None}, ("unknown_unit", "unit")),
        ({"unit": "mg/dL"}, ("unit_unexpected", "unit")),
        ({"code": "2823-4"}, ("bad_code", "code")),
        ({"code": "NULL"}, ("missing_value", "code")),
        ({"mrn": "100.0"}, ("bad_identifier", "mrn")),
        ({"mrn": "1E+16"}, ("bad_identifier", "mrn")),
        ({"mrn": "nan"}, ("no_patient", "mrn")),
    ],
)
def test_what_is_not_certain_is_quarantined_with_its_column(row: dict[str, Any], reason: tuple[str, str]) -> None:
    assert why(made(LAB, **row)) == reason


@pytest.mark.parametrize("code", ["4.4054006E7", "44054006.0", "44054007", "44054006 |Diabetes|"])
def test_a_spoiled_concept_is_no_code(code: str) -> None:
    assert why(made(CONDITION, code=code)) == ("bad_code", "code")


def test_a_source_whose_identifiers_look_like_floats_says_so() -> None:
    fields = {"code": {"column": "code", "system": SNOMED}, "onset": {"column": "at"}, "clinical_status": {"constant": "active"}}
    patient = {"identifiers": [{"column": "mrn", "system": "urn:mrn", "any_text": True}]}
    record = only(made(table("condition", fields, patient=patient), code="44054006", mrn="100.0"))
    assert record["patient"]["identifiers"][0]["value"] == "100.0"


def test_the_spellings_of_an_ndc_become_one_code_and_it_is_said() -> None:
    order = table(
        "medication_request",
        {"code": {"column": "code", "system": NDC}, "authored": {"column": "at"}, "status": {"constant": "active"}},
    )
    record = only(made(order, code="0002-1433-80"))
    assert record["code"]["codings"][0]["code"] == "00002143380"
    assert record["repairs"] == ({"field": "code", "rule": "code", "was": "0002-1433-80", "now": "00002143380"},)


def test_rows_of_a_group_are_one_record_with_the_repairs_of_all() -> None:
    group = {"by": ["mrn", "at"], "code": {"system": LOINC, "code": "85354-9"}}
    fields = {
        "effective": {"column": "at"},
        "code": {"column": "code", "system": LOINC},
        "quantity": {"column": "value", "unit_column": "unit"},
    }
    of = table("vital_sign", fields, rows=[{"kind": "vital_sign", "group": group, "fields": fields}])
    base = {"mrn": "1", "at": "2024-03-01", "value": "80"}
    rows = [{"id": "1", "code": "8480-6", "unit": "mmHg", **base}, {"id": "2", "code": "8462-4", "unit": "mm[Hg]", **base}]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(COLUMNS, pl.String))
    record = only(normalise(frame, "t", of, ActorFrom(), Maker("s", {}, "UTC", {})))
    assert len(record["components"]) == 2
    assert [repair["was"] for repair in record["repairs"]] == ["mmHg"]


def test_a_tenant_chooses_the_word_that_a_source_cannot_say() -> None:
    order = table(
        "medication_request",
        {
            "code": {"column": "code", "system": "urn:rx"},
            "authored": {"column": "at"},
            "status": {"choice": "ended_order", "words": ["unknown", "completed"]},
        },
    )
    assert only(made(order))["status"] == "unknown"
    assert only(made(order, {"ended_order": "completed"}))["status"] == "completed"


def test_a_choice_of_words_that_the_field_cannot_hold_is_no_contract() -> None:
    fields = {"code": {"column": "code", "system": "urn:rx"}, "authored": {"column": "at"}}
    with pytest.raises(ValueError, match="status cannot be"):
        table("medication_request", {**fields, "status": {"choice": "x", "words": ["finished"]}})
    with pytest.raises(ValueError, match="go together"):
        table("medication_request", {**fields, "status": {"choice": "x"}})
