"""From a delivered file to rows, records, work for decide, quarantine and events: every row at exactly one end."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from conftest import OpenLayer
from ingest.hospital import HEADER, NOTE, VITALS, Hospital, row, write_source

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.ingest.pipeline import land, normalise


def test_every_row_has_one_end_and_good_rows_go_on(hospital: Hospital, open_run: OpenLayer) -> None:
    hospital.deliver(
        "vitals.csv",
        HEADER
        + row(1)
        + row(2, item="DIET", value="soft")
        + row(3, at="31.13.2024")
        + row(4, mrn="")
        + row(5, item="XYZ")
        + row(6, unit="furlongs")
        + row(7, value='"1,234"')
        + row(8, item="")
        + row(9, value=""),
    )
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        report = normalise(run)
    assert hospital.ends() == {
        1: ("record", None),
        2: ("not_written", "source_truth_only"),
        3: ("quarantined", "bad_date"),
        4: ("quarantined", "no_patient"),
        5: ("quarantined", "unmapped_code"),
        6: ("quarantined", "unknown_unit"),
        7: ("quarantined", "bad_decimal"),
        8: ("quarantined", "no_rule"),
        9: ("quarantined", "missing_value"),
    }
    assert report.counts == {"rows": 9, "records": 1, "rows_in_records": 1, "rows_not_written": 1, "rows_quarantined": 7}
    assert hospital.ask("SELECT count(*) FROM canonical.outbox WHERE tenant = $tenant") == [(1,)]


def test_a_quarantined_row_names_its_column_and_keeps_its_source_row(hospital: Hospital, open_run: OpenLayer) -> None:
    hospital.deliver("vitals.csv", HEADER + row(1, unit="furlongs"))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        normalise(run)
        [(code, path, row_id, sealed)] = hospital.ask(
            "SELECT code, path, i.row_id, source_row FROM quarantine.item i JOIN canonical.row r USING (tenant, row_id) "
            "WHERE tenant = $tenant"
        )
        assert (code, path) == ("unknown_unit", "unit")
        assert run.sealer.open_json("canonical.row", row_id, sealed)["unit"] == "furlongs"


def test_what_was_read_otherwise_than_written_is_counted_by_rule(hospital: Hospital, open_run: OpenLayer) -> None:
    hospital.deliver("vitals.csv", HEADER + row(1, unit="bpm") + row(2, unit="/min"))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        report = normalise(run)
    assert report.repairs == {"unit": 1}
    assert report.metadata()["repairs"] == "unit 1"


def test_a_record_says_in_one_vocabulary_what_the_row_said(hospital: Hospital, open_run: OpenLayer) -> None:
    hospital.deliver("vitals.csv", HEADER + row(1, value="72.50"))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        normalise(run)
        [(record_id, body, source_record)] = hospital.ask(
            "SELECT record_id, body, source_record FROM canonical.record WHERE tenant = $tenant"
        )
        raw = run.sealer.open("canonical.record", record_id, body)
        assert bytes(source_record) == run.identity.digest("source-record", "vitals", "vital_sign", "vitals", "1")
    assert b"72.50" in raw
    record = canonicaljson.decode(raw)
    assert record["patient"] == {"identifiers": [{"system": "urn:mrn", "value": "M1"}]}
    assert record["effective"] == "2024-12-31T10:00:00-05:00"
    assert [c["code"] for c in record["code"]["codings"]] == ["8867-4", "HR"]
    assert record["quantity"]["code"] == "/min"


def test_nothing_readable_of_a_patient_is_stored(hospital: Hospital, open_run: OpenLayer) -> None:
    hospital.deliver(f"vitals_{NOTE}.csv", HEADER + row(1, mrn=NOTE) + row(2, mrn=NOTE, at=NOTE))
    with open_run("ingest", hospital.tenant) as run:
        seen: list[object] = [land(run).metadata(), normalise(run).metadata()]
    for table in ("landing.extract", "landing.seen", "canonical.row", "canonical.record", "quarantine.item", "audit.event"):
        seen.append(hospital.ask(f"SELECT coalesce(string_agg(t::text, ''), '-') FROM {table} t WHERE tenant = $tenant"))
        hexed = hospital.ask(f"SELECT count(*) FROM {table} t WHERE tenant = $tenant AND t::text ~ '{NOTE.encode().hex()}'")
        assert hexed == [(0,)], table
    assert NOTE not in str(seen)


def test_each_change_of_an_extract_is_an_audit_event(hospital: Hospital, open_run: OpenLayer) -> None:
    hospital.deliver("vitals.csv", HEADER + row(1))
    hospital.deliver("vitals_b.csv", HEADER + "1,M1\n")
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        normalise(run)
    events = hospital.ask("SELECT type, detail->>'code', detail->>'rows' FROM audit.event WHERE tenant = $tenant ORDER BY id")
    assert events == [
        ("extract.landed", None, None),
        ("extract.landed", None, None),
        ("extract.ingested", None, "1"),
        ("extract.refused", "truncated", None),
    ]


def test_a_broken_extract_is_refused_with_its_line_and_the_next_goes_on(hospital: Hospital, open_run: OpenLayer) -> None:
    broken = hospital.deliver("vitals_1.csv", HEADER + row(1) + row(2) + "3,M1,31.12.20")
    hospital.deliver("vitals_2.csv", HEADER + row(4))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        report = normalise(run)
    assert report.refused == {"truncated": 1}
    assert hospital.extracts() == [("refused", "truncated", 4, None), ("ingested", None, None, None)]
    assert broken.exists()
    assert len(hospital.ends()) == 1


def test_a_crash_after_landing_loses_nothing(hospital: Hospital, open_run: OpenLayer) -> None:
    hospital.deliver("vitals.csv", HEADER + row(1))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
    with open_run("ingest", hospital.tenant) as run:
        assert land(run).landed == 0
        assert normalise(run).ingested == 1


def test_a_file_that_went_away_is_refused_and_lands_again(hospital: Hospital, open_run: OpenLayer) -> None:
    path = hospital.deliver("vitals.csv", HEADER + row(1))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        path.unlink()
        assert normalise(run).refused == {"file_gone": 1}
        hospital.deliver("vitals.csv", HEADER + row(1))
        assert land(run).landed == 1
        assert normalise(run).ingested == 1
    assert [state for state, *_ in hospital.extracts()] == ["ingested"]


def test_a_file_that_changed_since_it_landed_is_read_as_what_it_is_now(hospital: Hospital, open_run: OpenLayer) -> None:
    hospital.deliver("vitals.csv", HEADER + row(1))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        hospital.deliver("vitals.csv", HEADER + row(1) + row(2))
        assert normalise(run).refused == {"changed_since": 1}
        land(run)
        assert normalise(run).counts["rows"] == 2


def test_an_undeclared_column_is_counted_and_its_rows_go_on(hospital: Hospital, open_run: OpenLayer) -> None:
    hospital.deliver("vitals.csv", HEADER.replace("\n", ",surprise\n") + row(1).replace("\n", ",x\n"))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        report = normalise(run)
        [(row_id, sealed)] = hospital.ask("SELECT row_id, source_row FROM canonical.row WHERE tenant = $tenant")
        assert run.sealer.open_json("canonical.row", row_id, sealed)["surprise"] == "x"
    assert (report.undeclared_columns, report.counts["records"]) == (1, 1)


def test_a_row_that_does_not_say_which_row_it_is_is_quarantined(hospital: Hospital, open_run: OpenLayer) -> None:
    hospital.deliver("vitals.csv", HEADER + row(1) + row(""))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        normalise(run)
    assert hospital.ends() == {1: ("record", None), 2: ("quarantined", "no_identity")}


def test_a_source_that_became_unusable_keeps_its_extracts_waiting(hospital: Hospital, open_run: OpenLayer) -> None:
    hospital.deliver("vitals.csv", HEADER + row(1))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
    path = hospital.home / "tenants" / f"{hospital.tenant.tenant}.yaml"
    good = path.read_text()
    path.write_text(good.replace("mrn: urn:mrn", "other: urn:mrn"))
    with open_run("ingest", hospital.tenant) as run:
        [problem] = normalise(run).problems
    assert "add patient_systems.mrn" in problem
    assert hospital.extracts() == [("landed", None, None, None)]
    path.write_text(good)
    with open_run("ingest", hospital.tenant) as run:
        assert normalise(run).ingested == 1


def test_a_fault_of_a_suite_is_raised_when_the_other_extracts_are_through(hospital: Hospital, open_run: OpenLayer) -> None:
    suite = {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "nowhere"}, "meta": {"check": "x"}}
    (hospital.home / "expectations" / "vital_sign.json").write_text(json.dumps({"name": "vital_sign", "expectations": [suite]}))
    hospital.deliver("vitals_1.csv", HEADER + row(1))
    hospital.deliver("vitals_2.csv", HEADER + row(2, item="DIET"))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        with pytest.raises(ConfigError, match="bad_expectation"):
            normalise(run)
    assert [state for state, *_ in hospital.extracts()] == ["landed", "ingested"]


def test_a_contract_mended_under_the_same_number_reads_the_file_by_the_new_one(hospital: Hospital, open_run: OpenLayer) -> None:
    hospital.deliver("vitals.csv", HEADER + row(1))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        write_source(hospital.home / "mappings", VITALS + "# fixed\n")
        assert normalise(run).refused == {"contract_changed": 1}
        land(run)
        assert normalise(run).ingested == 1


def test_suites_quarantine_the_failing_record_and_say_so_by_check(
    make_hospital: Callable[..., Hospital], open_run: OpenLayer
) -> None:
    hospital = make_hospital(suites=True)
    hospital.deliver(
        "vitals.csv",
        HEADER
        + row(1)
        + row(2, value="7200")
        + row(3, item="WT", unit="kg", value="70")
        + row(4, item="SYS", unit="mmHg", value="1200")
        + row(5, item="DIA", unit="mmHg", value="80"),
    )
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        report = normalise(run)
    assert hospital.ends() == {
        1: ("record", None),
        2: ("quarantined", "gx_vital_sign_heart_rate"),
        3: ("record", None),
        4: ("quarantined", "gx_vital_sign_systolic_pressure"),
        5: ("quarantined", "gx_vital_sign_systolic_pressure"),
    }
    failed = {check.name: check.failed for check in report.checks if not check.passed}
    assert failed == {"vital_sign_heart_rate": 1, "vital_sign_systolic_pressure": 1, "vital_sign_fresh": 0}
    assert {check.evaluated for check in report.checks if check.kind == "lab_result"} == {0}
    assert hospital.ask("SELECT count(*) FROM canonical.outbox WHERE tenant = $tenant") == [(2,)]
    # The canonical object stays with the item: it is one of its five contexts.
    assert hospital.ask(
        "SELECT count(*) FROM quarantine.item JOIN canonical.record USING (tenant, record_id) WHERE tenant = $tenant"
    ) == [(3,)]


def test_a_critical_rule_on_the_batch_blocks_the_extract(make_hospital: Callable[..., Hospital], open_run: OpenLayer) -> None:
    hospital = make_hospital(suites=True)
    hospital.deliver("vitals.csv", HEADER + "".join(row(n, at=f"{n + 1:02d}.12.2124 10:00") for n in range(25)))
    with open_run("ingest", hospital.tenant, now=lambda: datetime(2025, 1, 1, tzinfo=UTC)) as run:
        land(run)
        assert normalise(run).refused == {"gx_vital_sign_batch_not_shifted": 1}
    assert hospital.ends() == {}
    assert hospital.extracts() == [("refused", "gx_vital_sign_batch_not_shifted", None, None)]
