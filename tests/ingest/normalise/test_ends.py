"""An end that stands for none, or that is still to come, has not happened: nothing is written as over before it is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from fhir_writeback_dagster.ingest.contracts.contract import Table
from fhir_writeback_dagster.ingest.contracts.ends import end_columns
from fhir_writeback_dagster.ingest.contracts.row_rules import ActorFrom
from fhir_writeback_dagster.ingest.normalise.columns import Maker
from fhir_writeback_dagster.ingest.normalise.records import Normalised, normalise

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
CONDITION: dict[str, Any] = {
    "files": "*.csv",
    "format": "csv",
    "columns": {"id": "operational", "mrn": "chart", "code": "chart", "start": "chart", "stop": "chart"},
    "patient": {"identifiers": [{"column": "mrn", "system": "urn:mrn"}]},
    "identity": ["id"],
    "rows": [
        {
            "kind": "condition",
            "fields": {
                "code": {"column": "code", "system": "http://snomed.info/sct"},
                "onset": {"column": "start"},
                "abatement": {"column": "stop"},
                "clinical_status": [{"constant": "resolved", "when": {"stop": "present"}}, {"constant": "active"}],
            },
        }
    ],
}
ORDER = CONDITION | {
    "rows": [
        {
            "kind": "medication_request",
            "fields": {
                "code": {"column": "code", "system": "http://www.nlm.nih.gov/research/umls/rxnorm"},
                "authored": {"column": "start"},
                "status": [{"constant": "stopped", "when": {"stop": "present"}}, {"constant": "active"}],
            },
        }
    ]
}


def made(document: dict[str, Any], stop: str | None, start: str = "2024-01-02", code: str = "59621000") -> Normalised:
    table = Table.model_validate(document)
    frame = pl.DataFrame(
        {"id": ["1"], "mrn": ["M1"], "code": [code], "start": [start], "stop": [stop]}, schema_overrides={"stop": pl.String}
    )
    return normalise(frame, "t", table, ActorFrom(), Maker("s", {}, "America/New_York", {}, NOW))


def status(made: Normalised) -> tuple[str | None, str | None]:
    if made.others:
        return made.others[0].reason, made.others[0].column
    record: Any = made.records[0].record
    return getattr(record, "clinical_status", None) or record.status, getattr(record, "abatement", None)


@pytest.mark.parametrize(
    "stop",
    [
        *(
            None,
            "",
            "9999-12-31",
            "2099-12-31",
            "2099-12-31 00:00:00",
            "9999-12-31T00:00:00Z",
            "99991231",
            "31/12/9999",
            "12/31/2099",
        ),
        *("2026-11-27", "2031-05-01", "2026-11-26T12:00:01Z", "2026-11-26 12:30"),  # the last is New York's
    ],
)
def test_what_has_not_ended_is_active(stop: str | None) -> None:
    assert status(made(CONDITION, stop)) == ("active", None)
    assert status(made(ORDER, stop, code="860975")) == ("active", None)


@pytest.mark.parametrize("stop", ["2024-02-01", "2026-11-26", "2026-11-26T11:59:59Z"])
def test_what_has_ended_is_over(stop: str) -> None:
    assert status(made(CONDITION, stop)) == ("resolved", stop)
    assert status(made(ORDER, stop, code="860975")) == ("stopped", None)


@pytest.mark.parametrize("stop", ["9999-12-31 23:59:59", "0001-01-01", "31.02.2024", "soon"])
def test_an_end_that_nobody_declared_and_that_cannot_be_is_refused(stop: str) -> None:
    assert status(made(CONDITION, stop)) == ("bad_date", "stop")


def test_what_stands_for_no_end_is_the_contracts_to_say() -> None:
    own = CONDITION | {"no_end": ["2900-01-01", "open"]}
    assert status(made(own, "2900-01-01 00:00")) == ("active", None)
    assert status(made(own, "open")) == ("active", None)
    assert status(made(own, "9999-12-31")) == ("bad_date", "stop")


def test_the_day_that_stands_for_no_end_is_no_beginning_either() -> None:
    found = made(CONDITION, None, start="9999-12-31")
    assert getattr(found.records[0].record, "onset", None) is None
    assert made(ORDER, None, start="9999-12-31").others[0].reason == "missing_value"


def test_an_identifier_that_looks_like_such_a_day_is_one() -> None:
    table = Table.model_validate(CONDITION)
    frame = pl.DataFrame({"id": ["1"], "mrn": ["99991231"], "code": ["59621000"], "start": ["2024-01-02"], "stop": [""]})
    found = normalise(frame, "t", table, ActorFrom(), Maker("s", {}, "UTC", {}, NOW))
    assert found.records[0].record.patient.identifiers[0].value == "99991231"


def test_a_contract_names_ends_that_its_rules_do_not_show() -> None:
    assert end_columns(Table.model_validate(CONDITION)) == end_columns(Table.model_validate(ORDER)) == {"stop"}
    assert end_columns(Table.model_validate(CONDITION | {"ends": ["start"]})) == {"start", "stop"}
    with pytest.raises(ValueError, match="names no column"):
        Table.model_validate(CONDITION | {"ends": ["x"]})
