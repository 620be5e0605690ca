"""Results as laboratories report them: numbers as numbers, bounds as bounds, the rest where the contract sends it."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from fhir_writeback_dagster.ingest.contracts.contract import Table
from fhir_writeback_dagster.ingest.contracts.row_rules import ActorFrom
from fhir_writeback_dagster.ingest.normalise.columns import Maker
from fhir_writeback_dagster.ingest.normalise.records import normalise

LOINC = "http://loinc.org"
COLUMNS = {"id": "operational", "mrn": "chart", "at": "chart", "value": "chart"}


def table(kind: str, fields: dict[str, Any]) -> Table:
    return Table.model_validate(
        {
            "files": "*.csv",
            "format": "csv",
            "columns": COLUMNS,
            "patient": {"identifiers": [{"column": "mrn", "system": "urn:mrn"}]},
            "identity": ["id"],
            "rows": [{"kind": kind, "fields": {"effective": {"column": "at"}, **fields}}],
        }
    )


def one(asked: Table, value: str | None) -> Any:
    frame = pl.DataFrame(
        {"id": ["1"], "mrn": ["M1"], "at": ["2024-01-05"], "value": [value]}, schema_overrides={"value": pl.String}
    )
    found = normalise(frame, "t", asked, ActorFrom(), Maker("s", {}, "UTC", {}))
    return found.others[0].reason if found.others else found.records[0].record


POSITIVE = {"system": "http://snomed.info/sct", "code": "10828004"}
LAB = table(
    "lab_result",
    {
        "code": {"code": "5206-8", "system": LOINC},
        "quantity": {"column": "value", "unit": "mg/L", "when": {"value": "number"}},
        "concept": {**POSITIVE, "when": {"value": {"matches": "(?i)pos(itive)?"}}},
        "text": {"column": "value", "when": {"value": {"matches": r"1:\d+|\d+-\d+|(?i)trace"}}},
    },
)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("5.4", ("5.4", None)),
        ("<0.01", ("0.01", "<")),
        ("> 60", ("60", ">")),
        ("-2", ("-2", None)),
        ("1e3", ("1E+3", None)),
    ],
)
def test_numbers_and_bounds_stay_quantities(value: str, said: tuple[str, str | None]) -> None:
    record = one(LAB, value)
    assert (str(record.quantity.value), record.quantity.comparator) == said
    assert record.text is None
    assert record.concept is None


@pytest.mark.parametrize("value", ["1:40", "5-10", "Trace"])
def test_what_is_no_number_goes_where_the_contract_sends_it(value: str) -> None:
    record = one(LAB, value)
    assert (record.text, record.quantity) == (value, None)


def test_a_word_becomes_a_coded_value() -> None:
    record = one(LAB, "POSITIVE")
    assert [coding.code for coding in record.concept.codings] == [POSITIVE["code"]]


@pytest.mark.parametrize("value", ["positively", "x1:40", "haemolysed", "4.1²", ""])
def test_what_no_condition_takes_is_quarantined(value: str) -> None:
    assert one(LAB, value) == "missing_value"


def test_not_matches_takes_the_rest_and_never_what_says_nothing() -> None:
    rest = table(
        "lab_result",
        {
            "code": {"code": "5206-8", "system": LOINC},
            "quantity": {"column": "value", "unit": "mg/L", "when": {"value": {"not_matches": "[a-z ]+"}}},
            "text": {"column": "value", "when": {"value": "not_number"}},
        },
    )
    assert one(rest, "5").quantity.value == 5
    assert one(rest, "see note").text == "see note"
    assert one(rest, "") == "missing_value"


PRESSURE = table(
    "vital_sign",
    {
        "code": {"code": "85354-9", "system": LOINC},
        "components": [
            {
                "code": {"code": code, "system": LOINC},
                "quantity": {"column": "value", "extract": extract, "unit": "mm[Hg]"},
            }
            for code, extract in (("8480-6", r"(\d{2,3}) ?/ ?\d{2,3}"), ("8462-4", r"\d{2,3} ?/ ?(\d{2,3})"))
        ],
    },
)


def test_a_blood_pressure_in_one_text_is_two_components() -> None:
    record = one(PRESSURE, "120/80")
    assert [(c.code.codings[0].code, str(c.quantity.value)) for c in record.components] == [("8480-6", "120"), ("8462-4", "80")]


@pytest.mark.parametrize("value", ["120/", "120", "120/80/60", "120 over 80"])
def test_half_a_blood_pressure_is_none(value: str) -> None:
    assert one(PRESSURE, value) == "bad_decimal"


@pytest.mark.parametrize("pattern", ["(", r"(\d+)/(\d+)", r"\d+", r"(?=x)(\d)"])
def test_a_pattern_that_could_not_be_used_is_the_contracts_fault(pattern: str) -> None:
    with pytest.raises(ValidationError):
        table(
            "vital_sign",
            {"code": {"code": "x", "system": LOINC}, "quantity": {"column": "value", "extract": pattern, "unit": "1"}},
        )


def test_a_pattern_takes_linear_time() -> None:
    evil = table(
        "lab_result",
        {"code": {"code": "5206-8", "system": LOINC}, "text": {"column": "value", "when": {"value": {"matches": "(a|a)*b"}}}},
    )
    assert one(evil, "a" * 100_000) == "missing_value"
