"""Whatever is raised, in whatever stage: it ends the one thing that brought it about, with a defect that has a place."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

import polars as pl
import psycopg
import pytest
from conftest import OpenLayer
from ingest.hospital import HEADER, NOTE, VITALS, Hospital, row

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ingest.pipeline import land, normalise

INGEST = "fhir_writeback_dagster.ingest"


def _of_the_bad_one(arguments: tuple[Any, ...]) -> bool:
    """Whether a stage is at work on the extract with the sign of the bad one in it, whatever it gets of it."""
    for argument in arguments:
        text = argument.write_csv() if isinstance(argument, pl.DataFrame) else repr(argument)
        if "M666" in text:
            return True
    return False


@pytest.mark.parametrize(
    "stage",
    [
        "pipeline.readers.read",
        "pipeline.records.normalise",
        "pipeline.flatten",
        "pipeline.discriminators.settle",
        "pipeline.recording.store",
        "normalise.records.read_texts",
        "readers.read.read_delimited",
    ],
)
@pytest.mark.parametrize(
    "error", [KeyError(NOTE), RecursionError(NOTE), pl.exceptions.PanicException(NOTE), psycopg.DataError(NOTE), MemoryError()]
)
def test_what_a_stage_raises_ends_its_extract(
    make_hospital: Callable[..., Hospital],
    open_run: OpenLayer,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    error: BaseException,
) -> None:
    hospital = make_hospital(suites=stage.endswith("flatten"))
    work = resolve_name(f"{INGEST}.{stage}")

    def broken(*arguments: Any, **named: Any) -> Any:
        if _of_the_bad_one(arguments):
            raise error
        return work(*arguments, **named)

    monkeypatch.setattr(f"{INGEST}.{stage}", broken)
    hospital.deliver("vitals_a.csv", HEADER + row(1, mrn="M666"))
    hospital.deliver("vitals_b.csv", HEADER + row(2))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        report = normalise(run)
    code = "too_costly" if isinstance(error, MemoryError) else "defect"
    assert (report.ingested, report.refused) == (1, {code: 1})
    assert [(state, refusal) for state, refusal, *_ in hospital.extracts()] == [("refused", code), ("ingested", None)]
    assert NOTE not in str(report)
    (problem,) = report.problems
    assert problem.startswith("vitals: extract ")
    assert code == "too_costly" or " at " in problem


@pytest.mark.parametrize("error", [psycopg.errors.UndefinedTable(), ServiceError("away", "away")])
def test_a_database_that_is_away_is_no_extracts_fault(
    hospital: Hospital, open_run: OpenLayer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def away(*_: Any) -> Any:
        raise error

    hospital.deliver("vitals.csv", HEADER + row(1))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        with monkeypatch.context() as patch:
            patch.setattr(f"{INGEST}.pipeline.recording.store", away)
            with pytest.raises(type(error)):
                normalise(run)
        assert hospital.extracts()[0][0] == "landed"
        assert normalise(run).ingested == 1


@pytest.mark.parametrize(
    "stage", ["columns.quantity", "columns.concept", "records.instant", "columns.PatientRef", "columns.dates.parse"]
)
def test_what_one_row_raises_ends_that_row(
    make_hospital: Callable[..., Hospital], open_run: OpenLayer, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    hospital = make_hospital(VITALS.replace("    identity: [id]\n", "    identity: [id]\n    as_of: {column: at, order: dmy}\n"))
    place = f"{INGEST}.normalise.{stage}"
    work = resolve_name(place)

    def broken(*arguments: Any, **named: Any) -> Any:
        if any(sign in repr((arguments, named)) for sign in ("666", "XYZ", "1966")):
            raise KeyError(NOTE)
        return work(*arguments, **named)

    monkeypatch.setattr(place, broken)
    item = "XYZ" if "concept" in stage else "WT"
    bad = row(1, value="666", mrn="M666", item=item, at="01.01.1966 10:00", unit="kg")
    hospital.deliver("vitals.csv", HEADER + bad + row(2))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        report = normalise(run)
    reason = "bad_date" if stage == "columns.dates.parse" else "defect"
    assert hospital.ends() == {1: ("quarantined", reason), 2: ("record", None)}
    assert NOTE not in str(report)
    assert (reason == "bad_date") != any("KeyError" in problem and "row" in problem for problem in report.problems)


def test_javas_longest_time_and_a_duration_that_nobody_names_stop_nobody(
    make_hospital: Callable[..., Hospital], open_run: OpenLayer
) -> None:
    contract = VITALS.replace('"vitals*.csv"', '"vitals*"').replace("format: csv", "format: parquet").replace(", order: dmy", "")
    hospital = make_hospital(contract)
    frame = pl.DataFrame(
        {
            "id": ["1", "2", "3"],
            "mrn": ["M1"] * 3,
            "at": pl.Series([2**63 - 1, -(2**62), 1_704_450_600_000_000], dtype=pl.Int64).cast(pl.Datetime("us", "UTC")),
            "item": ["HR"] * 3,
            "value": ["72"] * 3,
            "unit": ["/min"] * 3,
            "note": [None] * 3,
            "took": pl.Series([1, 2, 3]).cast(pl.Duration("us")),
            "born": pl.Series([2**31 - 1] * 3, dtype=pl.Int32).cast(pl.Date),
        },
        schema_overrides={"note": pl.String},
    )
    frame.write_parquet(hospital.zone / "vitals.parquet")
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        normalise(run)
    assert hospital.ends() == {1: ("quarantined", "bad_date"), 2: ("quarantined", "bad_date"), 3: ("record", None)}


def test_the_end_of_time_ends_its_row_and_the_good_file_is_read(hospital: Hospital, open_run: OpenLayer) -> None:
    ends = ("9999-12-31 23:59:59", "0001-01-01", "9999-12-31T23:59:59.999999", "99999999999999", "-1")
    hospital.deliver("vitals_a.csv", HEADER + "".join(row(n, at=at) for n, at in enumerate(ends)))
    hospital.deliver("vitals_b.csv", HEADER + row(9))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        report = normalise(run)
    assert (report.ingested, report.counts["records"], report.reasons) == (2, 1, {"bad_date": 5})
