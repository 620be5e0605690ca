"""Zones and files that somebody hostile, or merely careless, set up: what one of them brings about stays with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MakeTenant, OpenLayer
from ingest.hospital import HEADER, Hospital, row

from fhir_writeback_dagster.config.tenants import SourceUse, load_tenant
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.ingest.landing.places import place_of
from fhir_writeback_dagster.ingest.landing.zones import Zone
from fhir_writeback_dagster.ingest.pipeline import land, normalise

ONE = HEADER + row(1)


def retarget(hospital: Hospital, landing: str) -> None:
    path = hospital.home / "tenants" / f"{hospital.tenant.tenant}.yaml"
    path.write_text(path.read_text().replace("landing/zone", landing))


def test_a_file_name_in_other_bytes_is_refused_and_the_others_go_on(hospital: Hospital, open_run: OpenLayer) -> None:
    name = os.fsencode(hospital.zone) + b"/vitals_M\xfcller.csv"
    Path(os.fsdecode(name)).write_text(ONE)
    hospital.deliver("vitals.csv", HEADER + row(2))
    with open_run("ingest", hospital.tenant) as run:
        assert hospital.waits() == 2
        report = land(run)
        assert (report.landed, report.refused, report.problems) == (1, {"bad_file_name": 1}, ())
        assert normalise(run).counts["records"] == 1
        assert hospital.waits() == 0, "it asks for no more runs"


@pytest.mark.parametrize("what", ["link", "pipe"])
def test_no_link_and_no_pipe_is_opened(hospital: Hospital, open_run: OpenLayer, tmp_path: Path, what: str) -> None:
    (tmp_path / "vitals.csv").write_text(ONE)
    if what == "link":
        (hospital.zone / "vitals.csv").symlink_to(tmp_path / "vitals.csv")
    else:
        os.mkfifo(hospital.zone / "vitals.csv")
    with open_run("ingest", hospital.tenant) as run:
        report = land(run)
    assert report.files == 0
    assert "not_a_file" in report.problems[0]


def test_a_link_that_comes_after_the_look_is_not_followed(hospital: Hospital, tmp_path: Path) -> None:
    zone = Zone(hospital.home, hospital.tenant.sources["vitals"])
    file = hospital.deliver("vitals.csv", ONE)
    (delivery,) = zone.deliveries()
    (tmp_path / "other.csv").write_text(HEADER + row(7))
    file.unlink()
    file.symlink_to(tmp_path / "other.csv")
    reads: tuple[Callable[[], object], ...] = (lambda: zone.sha256(delivery), lambda: zone.read("vitals.csv"))
    for read in reads:
        with pytest.raises(OSError, match="symbolic link"):
            read()
    hospital.zone.rename(hospital.zone.with_name("moved"))
    hospital.zone.symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="zone_unreadable"):
        zone.deliveries()


@pytest.mark.parametrize(
    "spelling",
    ["{0}", "file://{0}", "FILE://{0}/", "local://{0}", "file:///.{0}", "{0}/../{1}", "simplecache::file://{0}", "link"],
)
def test_another_spelling_of_anothers_zone_is_the_same_zone(
    make_hospital: Callable[..., Hospital], make_tenant: MakeTenant, open_run: OpenLayer, spelling: str
) -> None:
    hospital = make_hospital()
    theirs = make_tenant(
        None, sources={"vitals": {"version": 1, "landing": "landing/theirs", "patient_systems": {"mrn": "urn:m"}}}
    )
    folder = hospital.home / "landing" / "theirs"
    (folder / "vitals.csv").write_text(ONE)
    (hospital.home / "link").symlink_to(folder)
    retarget(hospital, spelling.format(folder, folder.name))
    with open_run("ingest", hospital.tenant) as run:
        report = land(run)
    assert report.files == 0
    (problem,) = report.problems
    assert any(code in problem for code in ("shared_zone", "landing_chained", "landing_escapes"))
    with open_run("ingest", theirs) as run:
        assert ("shared_zone" in "".join(land(run).problems)) == ("shared_zone" in problem)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("s3://bucket/mercy/vitals", "S3A://bucket//mercy/./vitals/"),
        ("gs://bucket/a", "gcs://bucket/a"),
        ("az://container/a", "abfss://container@account.dfs.core.windows.net/a"),
        ("sftp://host/a", "ssh://me@HOST:22/a/"),
        ("memory://bucket/a", "memory:///bucket/a"),
    ],
)
def test_a_bucket_has_one_name(tmp_path: Path, one: str, other: str) -> None:
    assert place_of(tmp_path, one).names == place_of(tmp_path, other).names


@pytest.mark.parametrize(
    ("landing", "code"),
    [
        ("simplecache::s3://bucket/a", "landing_chained"),
        ("zip://vitals.csv::file:///tmp/a.zip", "landing_chained"),
        ("zip:///tmp/a.zip", "landing_scheme"),
        ("http://127.0.0.1/a", "landing_scheme"),
        ("reference://x", "landing_scheme"),
        ("s3://bucket/a?versionId=1", "landing_scheme"),
        ("file://landing/a", "landing_relative"),
        ("s3://bucket/../other", "landing_escapes"),
    ],
)
def test_a_place_that_could_be_any_is_none(tmp_path: Path, landing: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Zone(tmp_path, SourceUse(version=1, landing=landing))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "text",
    [
        "tenant: {{ tenant_id }}\n",
        "{% for x in y %}\n",
        "a: " + "[" * 20_000,
        "a: " + "{b: " * 5_000,
        "waiting_ttl: 99999999999999d\n",
        "? [1, 2]\n: x\n",
        "a: 0x" + "f" * 10_000 + "\n",
        "a: &a [*a]\n",
        "\udcff",
    ],
)
def test_one_tenants_file_stops_no_other(hospital: Hospital, open_run: OpenLayer, text: str) -> None:
    (hospital.home / "tenants" / "other.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        load_tenant(hospital.home / "tenants", "other")
    assert "other.yaml" in caught.value.where
    hospital.deliver("vitals.csv", ONE)
    with open_run("ingest", hospital.tenant) as run:
        assert hospital.waits() == 1
        assert land(run).landed == 1


def test_a_ttl_beyond_all_calendars_is_refused(home: Path, make_tenant: MakeTenant) -> None:
    for ttl in ("99999999999999d", "9" * 5_000 + "s", "36501d"):
        with pytest.raises(ConfigError, match="36500d"):
            make_tenant(None, waiting_ttl=ttl)


def test_a_file_beyond_all_measure_is_read_no_further_than_its_limit(
    hospital: Hospital, open_run: OpenLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhir_writeback_dagster.ingest.landing.zones.MAX_FILE", 1_000)
    monkeypatch.setattr("fhir_writeback_dagster.ingest.landing.landing.MAX_FILE", 1_000)
    with (hospital.zone / "vitals.csv").open("wb") as file:
        file.truncate(1 << 40)  # a sparse terabyte
    with open_run("ingest", hospital.tenant) as run:
        assert land(run).refused == {"file_too_large": 1}


def test_a_manifest_without_end_or_bottom_is_a_bad_one(make_hospital: Callable[..., Hospital], open_run: OpenLayer) -> None:
    hospital = make_hospital(complete_by="manifest")
    for number, text in enumerate(("[" * 60_000, '{"sha256": "' + "0" * 10_000_000 + '"}', '{"sha256": 1}', "[]")):
        hospital.deliver(f"vitals_{number}.csv", HEADER + row(number))
        (hospital.zone / f"vitals_{number}.csv.manifest.json").write_text(text)
    with open_run("ingest", hospital.tenant) as run:
        assert land(run).refused == {"bad_manifest": 4}
