"""Suites: what they may be, what a failure does, and that no value of a row leaves the process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support import PROJECT

from fhir_writeback_dagster.canonical import KINDS, CanonicalRecord, from_json
from fhir_writeback_dagster.cli import main
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.ingest.quality.data_docs import page
from fhir_writeback_dagster.ingest.quality.expectations import check_names, load_suites, run_suites
from fhir_writeback_dagster.ingest.quality.flatten import flatten

SUITES = PROJECT / "expectations"
NOW = datetime(2025, 1, 1, tzinfo=UTC)
SECRET = 7219.5


def vital(value: Any, loinc: str = "8867-4", unit: str = "/min", effective: str = "2024-03-01T10:00:00Z") -> CanonicalRecord:
    return from_json(
        {
            "kind": "vital_sign",
            "patient": {"identifiers": [{"system": "s", "value": "v"}]},
            "actor": {"type": "source", "id": "x"},
            "code": {"codings": [{"system": "http://loinc.org", "code": loinc}]},
            "effective": effective,
            "quantity": {"value": Decimal(str(value)), "unit": unit, "code": unit},
        }
    )


def rows(*records: CanonicalRecord) -> dict[str, list[dict[str, Any]]]:
    return {"vital_sign": flatten([(f"r{n}", record) for n, record in enumerate(records)], "UTC", NOW)}


def test_a_bound_is_asked_what_a_value_is_and_can_be_told_from_it() -> None:
    record = vital(30).model_copy(update={"kind": "lab_result"})
    assert record.quantity is not None  # type: ignore[union-attr]
    bound = record.model_copy(update={"quantity": record.quantity.model_copy(update={"comparator": "<"})})  # type: ignore[union-attr]
    found = [(row["comparator"], row["value"]) for row in flatten([("a", record), ("b", bound)], "UTC", NOW)]
    assert found == [(None, 30.0), ("<", 30.0)]


def test_a_range_quarantines_an_impossible_bound_and_lets_a_possible_one_pass() -> None:
    def glucose(value: str, comparator: str | None) -> CanonicalRecord:
        quantity = {"value": value, "comparator": comparator, "unit": "mg/dL", "code": "mg/dL"}
        data = vital(1, "2345-7").model_dump(exclude={"kind", "quantity"}) | {"kind": "lab_result", "quantity": quantity}
        return from_json(data)

    told = [("10", "<"), ("600", ">"), ("600", None), ("2", "<"), ("90000", ">")]
    rows = flatten([(f"r{n}", glucose(*one)) for n, one in enumerate(told)], "UTC", NOW)
    failed = run_suites({"lab_result": load_suites(SUITES)["lab_result"]}, {"lab_result": rows}).failed
    assert failed == {"r3": "lab_result_glucose", "r4": "lab_result_glucose"}


def test_every_kind_has_a_suite_and_every_check_a_description() -> None:
    names = check_names(SUITES)
    assert {check.kind for check in names} == set(KINDS)
    assert len({check.name for check in names}) == len(names)
    assert all(check.description for check in names)


def test_every_kind_is_checked_for_what_the_hospital_cares_about() -> None:
    """Code systems, freshness, volume and encounters of each; units and ranges of what has values, some by age."""
    checks = {kind: {one.check for one in suite.expectations} for kind, suite in load_suites(SUITES).items()}
    for kind, names in checks.items():
        assert "volume" in names
        assert kind == "patient" or {"code_system_known", "fresh", "encounter_of_one_patient"} <= names
    for kind in ("vital_sign", "lab_result"):
        assert any(name.endswith("_unit") for name in checks[kind])
        assert any(name.endswith(("_adult", "_infant", "_child")) for name in checks[kind])


def aged(value: float, loinc: str, unit: str, born: str | None) -> CanonicalRecord:
    record = vital(value, loinc, unit)
    return record.model_copy(update={"patient": record.patient.model_copy(update={"birth_date": born})})


def test_what_an_infant_can_have_an_adult_cannot_and_the_other_way_round() -> None:
    found = rows(
        aged(4, "29463-7", "kg", "2024-02-01"),
        aged(4, "29463-7", "kg", "1980"),
        aged(70, "29463-7", "kg", "1980-05"),
        aged(70, "29463-7", "kg", "2024-02-01"),
        aged(4, "29463-7", "kg", None),
    )
    ages = [round(row["age_years"], 1) for row in found["vital_sign"][:4]]
    assert ages == [0.1, 44.2, 43.8, 0.1]
    failed = run_suites(load_suites(SUITES), found).failed
    assert failed == {"r1": "vital_sign_body_weight_adult", "r3": "vital_sign_body_weight_infant"}


def test_a_laboratory_value_is_never_negative_where_none_can_be() -> None:
    values = [(-2, "1988-5"), (-2, "1925-7"), (-200, "1925-7"), (0, "1988-5")]
    records = [vital(value, loinc, "mmol/L").model_dump() | {"kind": "lab_result"} for value, loinc in values]
    frame = flatten([(f"r{n}", from_json(record)) for n, record in enumerate(records)], "UTC", NOW)
    failed = run_suites({"lab_result": load_suites(SUITES)["lab_result"]}, {"lab_result": frame}).failed
    found = {row: check for row, check in failed.items() if check.endswith(("never_negative", "base_excess"))}
    assert found == {"r0": "lab_result_never_negative", "r2": "lab_result_base_excess"}


def test_a_batch_knows_its_newest_row_and_how_many_patients_share_an_encounter() -> None:
    visit = ({"system": "urn:visit", "value": "1"},)
    records = [
        from_json(
            {
                **vital(70, effective=f"2024-12-2{n}T00:00:00Z").model_dump(),
                "encounter": visit if n < 2 else (),
                "patient": {"identifiers": ({"system": "urn:mrn", "value": str(n)},)},
            }
        )
        for n in range(3)
    ]
    found = rows(*records)["vital_sign"]
    assert [row["encounter_patients"] for row in found] == [2, 2, None]
    assert {row["newest_days_ago"] for row in found} == {10.0}


def test_an_expectation_in_json_is_a_check_and_keeps_rows_aside(tmp_path: Path) -> None:
    """What docs/adding-a-source.md promises: no code, one entry in the kind's file."""
    suite = json.loads((SUITES / "vital_sign.json").read_text())
    added = {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "value", "max_value": 71},
        "description": "Ours.",
        "meta": {"check": "our_own_rule"},
    }
    (tmp_path / "vital_sign.json").write_text(json.dumps({**suite, "expectations": [*suite["expectations"], added]}))
    assert "vital_sign_our_own_rule" in {check.name for check in check_names(tmp_path)}
    verdict = run_suites(load_suites(tmp_path), rows(vital(70), vital(72)))
    assert verdict.failed == {"r1": "vital_sign_our_own_rule"}


def test_the_page_of_expectations_holds_counts_and_loads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_WRITEBACK_HOME", str(PROJECT))
    file = tmp_path / "docs.html"
    assert CliRunner().invoke(main, ["expectations", "docs", str(file)]).exit_code == 0
    text = file.read_text()
    assert all(check.name in text for check in check_names(SUITES))
    assert not re.search(r"src=|href=|<script", text)
    counted = page(load_suites(SUITES), {"vital_sign_heart_rate": 3})
    assert "<td>3</tr>" in counted


def test_names_are_read_without_importing_great_expectations_or_pandas() -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from fhir_writeback_dagster.ingest import pipeline\n"
        f"from fhir_writeback_dagster.ingest.quality.expectations import check_names; assert check_names(Path({str(SUITES)!r}))\n"
        "sys.exit(bool({'great_expectations', 'pandas'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_failing_rows_are_found_by_record_id_and_only_counts_come_out() -> None:
    batch = rows(vital(72), vital(SECRET), vital(37.2, "8310-5", "Cel"), vital(98.6, "8310-5", "K"), vital(60, effective="2031"))
    verdict = run_suites(load_suites(SUITES), batch)
    assert verdict.failed == {
        "r1": "vital_sign_heart_rate",
        "r3": "vital_sign_body_temperature_unit",
        "r4": "vital_sign_not_in_future",
    }
    assert verdict.blocked is None
    assert {(r.name, r.evaluated, r.failed) for r in verdict.results if not r.passed} == {
        ("vital_sign_heart_rate", 3, 1),
        ("vital_sign_body_temperature_unit", 2, 1),
        ("vital_sign_not_in_future", 5, 1),
    }
    assert str(SECRET) not in str(verdict)


def suite(folder: Path, expectations: list[dict[str, Any]]) -> Path:
    (folder / "vital_sign.json").write_text(json.dumps({"name": "vital_sign", "expectations": expectations}))
    return folder


def at_most(maximum: int, severity: str, check: str = "value", column: str = "value") -> dict[str, Any]:
    kwargs = {"column": column, "max_value": maximum}
    return {"type": "expect_column_values_to_be_between", "kwargs": kwargs, "severity": severity, "meta": {"check": check}}


@pytest.mark.parametrize(("severity", "failed"), [("critical", {"r0"}), ("warning", {"r0"}), ("info", set())])
def test_a_failing_row_is_kept_back_unless_its_check_is_info(tmp_path: Path, severity: str, failed: set[str]) -> None:
    verdict = run_suites(load_suites(suite(tmp_path, [at_most(50, severity)])), rows(vital(72), vital(40)))
    assert verdict.failed.keys() == failed
    assert [(result.passed, result.failed) for result in verdict.results] == [(False, 1)]


@pytest.mark.parametrize(("severity", "blocked"), [("critical", "vital_sign_few"), ("warning", None)])
def test_a_failing_batch_rule_blocks_if_it_is_critical(tmp_path: Path, severity: str, blocked: str | None) -> None:
    rule = {
        "type": "expect_table_row_count_to_be_between",
        "kwargs": {"max_value": 1},
        "severity": severity,
        "meta": {"check": "few"},
    }
    verdict = run_suites(load_suites(suite(tmp_path, [rule])), rows(vital(72), vital(73)))
    assert (verdict.blocked, verdict.failed) == (blocked, {})


def test_a_check_about_no_row_says_nothing(tmp_path: Path) -> None:
    rule = at_most(1, "critical")
    rule["kwargs"] |= {"row_condition": 'code == "9279-1"', "condition_parser": "pandas"}
    [result] = run_suites(load_suites(suite(tmp_path, [rule, at_most(99, "info", "all")])), rows(vital(72))).results[:1]
    assert (result.passed, result.evaluated) == (True, 0)


def test_a_bad_condition_is_the_suites_fault(tmp_path: Path) -> None:
    rule = at_most(1, "critical")
    rule["kwargs"] |= {"row_condition": "nowhere == 1", "condition_parser": "pandas"}
    with pytest.raises(ConfigError, match="bad_expectation"):
        run_suites(load_suites(suite(tmp_path, [rule])), rows(vital(72)))


def test_a_check_that_cannot_be_evaluated_is_the_suites_fault_and_shows_no_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bad_expectation") as caught:
        run_suites(load_suites(suite(tmp_path, [at_most(1, "critical", column="nowhere")])), rows(vital(SECRET)))
    assert str(SECRET) not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d.update(name="other"), "one canonical kind"),
        (lambda d: d["expectations"][0].pop("meta"), "meta"),
        (lambda d: d["expectations"][0]["meta"].clear(), "meta.check"),
        (lambda d: d["expectations"].append(d["expectations"][0]), "meta.check"),
        (lambda d: d["expectations"][0].update(severity="fatal"), "severity"),
        (lambda d: d["expectations"][0].update(kwarg={}), "kwarg"),
        (lambda d: d["expectations"].clear(), "expectations"),
    ],
)
def test_a_bad_suite_is_refused(tmp_path: Path, change: Any, expected: str) -> None:
    document = {"name": "vital_sign", "expectations": [at_most(1, "critical")]}
    change(document)
    (tmp_path / "vital_sign.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="bad_suite") as caught:
        load_suites(tmp_path)
    assert expected in str(caught.value)


def test_a_suite_that_is_no_json_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "vital_sign.json").write_text('{"name": "vital_sign",\n"expectations": [}')
    with pytest.raises(ConfigError, match=r"vital_sign\.json:2"):
        load_suites(tmp_path)


def test_components_are_rows_of_their_own_and_a_batch_knows_its_share_of_the_future() -> None:
    late = [vital(60, effective="2031-01-01T00:00:00Z")] * 15
    flat = rows(*late, *[vital(72)] * 5)["vital_sign"]
    assert {row["future_share"] for row in flat} == {0.75}
    assert {row["future_share"] for row in rows(*late[:3])["vital_sign"]} == {0.0}  # too few to say
