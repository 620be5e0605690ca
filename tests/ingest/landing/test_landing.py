"""Zones: which files are complete, what re-delivery costs, what is refused and stays, and what never becomes a path."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import MakeTenant, OpenLayer
from ingest.hospital import HEADER, VITALS, Hospital, row, write_source
from support import Database
from upath import UPath

from fhir_writeback_dagster.ingest.landing.watch import STABLE_FOR
from fhir_writeback_dagster.ingest.pipeline import land, normalise

ONE = HEADER + row(1)


def test_a_file_lands_once_and_stays_where_it_is(hospital: Hospital, open_run: OpenLayer) -> None:
    path = hospital.deliver("vitals.csv", ONE)
    assert hospital.waits() == 1
    with open_run("ingest", hospital.tenant) as run:
        assert land(run).landed == 1
        assert hospital.waits() == 1  # landed, and not yet read
        normalise(run)
        assert land(run) == land(run)
        assert land(run).landed == 0
    assert hospital.waits() == 0
    assert path.read_text() == ONE


def test_the_same_bytes_are_free_under_any_name(hospital: Hospital, open_run: OpenLayer) -> None:
    hospital.deliver("vitals.csv", ONE)
    hospital.deliver("vitals_copy.csv", ONE)
    with open_run("ingest", hospital.tenant) as run:
        report = land(run)
        assert (report.landed, report.known) == (1, 1)
        normalise(run)
        hospital.deliver("vitals_again.csv", ONE)
        report = land(run)
        assert (report.landed, report.known) == (0, 1)
        assert normalise(run).ingested == 0
    assert len(hospital.ends()) == 1
    assert hospital.waits() == 0


def test_a_new_version_of_the_contract_reads_the_files_again(hospital: Hospital, open_run: OpenLayer) -> None:
    hospital.deliver("vitals.csv", HEADER.replace("unit", "units") + row(1))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        assert normalise(run).refused == {"missing_column": 1}
    write_source(
        hospital.home / "mappings",
        VITALS.replace("version: 1", "version: 2")
        .replace("unit: chart", "units: chart")
        .replace("unit_column: unit", "unit_column: units"),
        version=2,
    )
    path = hospital.home / "tenants" / f"{hospital.tenant.tenant}.yaml"
    path.write_text(path.read_text().replace("version: 1", "version: 2"))
    with open_run("ingest", hospital.tenant) as run:
        assert land(run).landed == 1
        assert normalise(run).counts["records"] == 1


@pytest.mark.parametrize("name", [".vitals.csv", "vitals.csv.part", "vitals.csv.tmp", "vitals.csv.crdownload"])
def test_names_of_unfinished_files_are_left_alone(hospital: Hospital, open_run: OpenLayer, name: str) -> None:
    (hospital.zone / name).write_text(ONE)
    with open_run("ingest", hospital.tenant) as run:
        assert land(run).files == 0
    assert hospital.waits() == 0


def test_a_file_that_no_table_takes_is_refused_and_stays(hospital: Hospital, open_run: OpenLayer) -> None:
    path = hospital.deliver("notes.csv", ONE)
    with open_run("ingest", hospital.tenant) as run:
        assert land(run).refused == {"no_table": 1}
    assert hospital.extracts() == [("refused", "no_table", None, None)]
    assert path.exists()
    assert hospital.waits() == 0


def test_files_that_the_contract_ignores_are_no_business_of_ours(
    make_hospital: Callable[..., Hospital], open_run: OpenLayer
) -> None:
    hospital = make_hospital(VITALS.replace("version: 1", 'version: 1\nignore: ["claims*"]'))
    hospital.deliver("claims.csv", ONE)
    with open_run("ingest", hospital.tenant) as run:
        assert land(run).files == 0


def test_the_file_that_was_written_first_is_read_first(hospital: Hospital, open_run: OpenLayer) -> None:
    import os

    for name, age in (("vitals_a.csv", 10), ("vitals_b.csv", 20)):
        path = hospital.deliver(name, HEADER + row(name))
        os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))
    with open_run("ingest", hospital.tenant) as run:
        land(run)
        names = hospital.ask("SELECT extract_id, name_sealed FROM landing.extract WHERE tenant = $tenant ORDER BY received_at")
        assert [run.sealer.open_json("landing.extract", *one) for one in names] == ["vitals_b.csv", "vitals_a.csv"]


def test_a_manifest_written_last_completes_a_file(make_hospital: Callable[..., Hospital], open_run: OpenLayer) -> None:
    hospital = make_hospital(complete_by="manifest")
    hospital.deliver("vitals.csv", ONE.rstrip("\n"))  # the manifest proves it whole
    with open_run("ingest", hospital.tenant) as run:
        assert land(run).files == 0
        hospital.promise("vitals.csv")
        assert land(run).landed == 1
        assert normalise(run).counts["records"] == 1


def test_other_bytes_than_the_manifest_promises_are_refused_until_it_is_right(
    make_hospital: Callable[..., Hospital], open_run: OpenLayer
) -> None:
    hospital = make_hospital(complete_by="manifest")
    hospital.deliver("vitals.csv", ONE)
    hospital.promise("vitals.csv", b"something else")
    with open_run("ingest", hospital.tenant) as run:
        assert land(run).refused == {"manifest_mismatch": 1}
        (hospital.zone / "vitals.csv.manifest.json").write_text("{}")
        assert land(run).refused == {"bad_manifest": 1}
        hospital.promise("vitals.csv")
        assert land(run).landed == 1
        assert normalise(run).ingested == 1
    assert [state for state, *_ in hospital.extracts()] == ["ingested"]


def test_a_stable_size_counts_only_after_a_while(make_hospital: Callable[..., Hospital], open_run: OpenLayer) -> None:
    hospital = make_hospital(complete_by="stable_size")
    clock = datetime.now(UTC)
    hospital.deliver("vitals.csv", HEADER)
    with open_run("ingest", hospital.tenant, now=lambda: clock) as run:
        assert (land(run).landed, land(run).unsettled) == (0, 1)
        assert [hospital.waits(clock + more) for more in (timedelta(), STABLE_FOR)] == [0, 1], "the sensor asks again in time"
        hospital.deliver("vitals.csv", ONE)  # it grew
        clock += STABLE_FOR
        assert land(run).landed == 0
        clock += STABLE_FOR - timedelta(seconds=1)
        assert land(run).landed == 0
        clock += timedelta(seconds=1)
        assert land(run).landed == 1
        assert normalise(run).counts["records"] == 1


@pytest.mark.parametrize("landing", ["../elsewhere", "landing/../../elsewhere", "file:///tmp/../etc", "link"])
def test_a_zone_never_leads_out_of_its_home(
    make_hospital: Callable[..., Hospital], open_run: OpenLayer, tmp_path: Path, landing: str
) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "vitals.csv").write_text(ONE)
    hospital = make_hospital()
    (hospital.home / "link").symlink_to(outside)
    path = hospital.home / "tenants" / f"{hospital.tenant.tenant}.yaml"
    path.write_text(path.read_text().replace("landing/zone", landing))
    with open_run("ingest", hospital.tenant) as run:
        report = land(run)
    assert report.files == 0
    assert "landing_escapes" in report.problems[0]
    assert f"tenants/{hospital.tenant.tenant}.yaml: sources.vitals" in report.problems[0]


def test_an_absolute_zone_and_a_url_are_read(make_hospital: Callable[..., Hospital], open_run: OpenLayer, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "vitals.csv").write_text(HEADER + row(name))
    hospital = make_hospital(landing=str(tmp_path / "a"))
    with open_run("ingest", hospital.tenant) as run:
        assert land(run).landed == 1
    path = hospital.home / "tenants" / f"{hospital.tenant.tenant}.yaml"
    path.write_text(path.read_text().replace(str(tmp_path / "a"), f"file://{tmp_path}/b"))
    with open_run("ingest", hospital.tenant) as run:
        assert land(run).landed == 1


def test_a_zone_may_be_a_bucket(make_hospital: Callable[..., Hospital], open_run: OpenLayer) -> None:
    bucket = UPath("memory://bucket/vitals")
    bucket.mkdir(parents=True, exist_ok=True)
    hospital = make_hospital(landing="memory://bucket/vitals")
    (bucket / "vitals.csv").write_text(ONE)
    (bucket / "vitals.csv.part").write_text(ONE)
    with open_run("ingest", hospital.tenant) as run:
        assert land(run).landed == 1
        assert normalise(run).counts["records"] == 1
        (bucket / "vitals.csv").write_text(HEADER + row(2))
        assert land(run).landed == 1


def test_a_source_in_trouble_is_named_and_leaves_the_others_alone(
    database: Database, make_hospital: Callable[..., Hospital], open_run: OpenLayer
) -> None:
    hospital = make_hospital()
    path = hospital.home / "tenants" / f"{hospital.tenant.tenant}.yaml"
    gone = "  gone: {version: 1, landing: landing/gone, patient_systems: {mrn: x}}\n"
    more = "  nobody: {version: 1, landing: landing/nobody}\n" + gone
    path.write_text(path.read_text().replace("sources:\n", "sources:\n" + more))
    write_source(hospital.home / "mappings", VITALS.replace("source: vitals", "source: gone"), source="gone")
    hospital.deliver("vitals.csv", ONE)
    assert hospital.waits() == 1
    with open_run("ingest", hospital.tenant) as run:
        report = land(run)
    assert report.landed == 1
    assert [problem.count("known: ") for problem in report.problems] == [1, 0]
    assert "unknown_source" in report.problems[0]
    assert "zone_unreadable" in report.problems[1]


def test_a_source_whose_identifiers_have_no_system_lands_nothing_and_asks_for_no_runs(
    make_hospital: Callable[..., Hospital], open_run: OpenLayer
) -> None:
    hospital = make_hospital(patient_systems={})
    hospital.deliver("vitals.csv", ONE)
    with open_run("ingest", hospital.tenant) as run:
        report = land(run)
    assert (report.files, hospital.waits()) == (0, 0)
    assert "unknown_identifier_name" in report.problems[0]


def test_relative_references_of_a_contract_that_reads_none_are_a_mistake_of_the_tenant_s_file(
    make_hospital: Callable[..., Hospital], open_run: OpenLayer
) -> None:
    hospital = make_hospital(relative_references="ehr")
    hospital.deliver("vitals.csv", ONE)
    with open_run("ingest", hospital.tenant) as run:
        report = land(run)
    assert report.files == 0
    assert "references_not_read" in report.problems[0]
    assert "sources.vitals.relative_references" in report.problems[0]


def test_a_folder_of_no_source_beside_the_zones_is_told_of(make_hospital: Callable[..., Hospital], open_run: OpenLayer) -> None:
    hospital = make_hospital()
    tenant = hospital.tenant.tenant
    for name in ("vitals", "stranger"):
        (hospital.home / "landing" / tenant / name).mkdir(parents=True)
    (hospital.home / "landing" / tenant / "stranger" / "x.csv").write_text(ONE)
    path = hospital.home / "tenants" / f"{tenant}.yaml"
    path.write_text(path.read_text().replace("landing/zone", f"landing/{tenant}/vitals"))
    with open_run("ingest", hospital.tenant) as run:
        [problem] = land(run).problems
    assert "unknown_source" in problem
    assert "stranger" not in problem


def test_the_same_bytes_under_a_good_name_are_read_after_all(hospital: Hospital, open_run: OpenLayer) -> None:
    hospital.deliver("notes.csv", ONE)
    hospital.deliver("notes2.csv", HEADER + row(2))
    hospital.deliver("vitals2.csv", HEADER + row(2))
    with open_run("ingest", hospital.tenant) as run:
        assert (land(run).landed, hospital.waits()) == (1, 1)
        hospital.deliver("vitals.csv", ONE)
        assert land(run).landed == 1
        assert normalise(run).counts["records"] == 2


@pytest.mark.parametrize("spelling", ["{}", "./{}", "{}/"])
def test_a_zone_of_two_tenants_is_read_for_neither(
    hospital: Hospital, make_tenant: MakeTenant, open_run: OpenLayer, spelling: str
) -> None:
    landing = next(iter(hospital.tenant.sources.values())).landing
    other = make_tenant(None, sources={"vitals": {"version": 1, "landing": spelling.format(landing)}})
    hospital.deliver("vitals.csv", HEADER + row(1))
    for tenant, third in ((hospital.tenant, other), (other, hospital.tenant)):
        with open_run("ingest", tenant) as run:
            report = land(run)
        assert report.files == 0
        assert "shared_zone" in report.problems[0]
        assert third.tenant in report.problems[0]
    (hospital.home / "tenants" / f"{other.tenant}.yaml").unlink()
    with open_run("ingest", hospital.tenant) as run:
        assert land(run).landed == 1
