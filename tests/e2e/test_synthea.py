"""Synthea's CSV export through the whole chain onto a real server, held against Synthea's own FHIR of the same facts.

`synthea.tar.xz` holds one living patient with two pairs of orders that one naive key would make one, and the first rows of one
who died (Synthea's sample run jijones12/synthea at 6b8f5be3, Apache-2.0; resource types that nobody writes are left out).
``SYNTHEA_DIR`` names another run with ``*.csv`` and ``fhir/*.json`` (``exporter.csv.export`` and ``exporter.fhir.export``).
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeTenant, OpenLayer
from e2e.synthea_twins import KINDS, bundles, chart, compare, rows

from fhir_writeback_dagster.ops.report import TenantReport, read_report
from fhir_writeback_dagster.rules.consent.codes import ACT_CODE, CONSENT_SCOPE, RESTRICTED
from fhir_writeback_dagster.sandbox.servers.sekmet import CLIENT_ID, Sekmet

pytestmark = pytest.mark.timeout(900)
#: Scores that Synthea computes and never writes as FHIR.
SCORES = {"QALY", "DALY", "QOLS"}
#: Python has the filter since 3.11.4, and Debian 12 comes with 3.11.2; the archive is our own.
_SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


@pytest.fixture
def synthea(tmp_path: Path) -> Path:
    if given := os.environ.get("SYNTHEA_DIR"):
        return Path(given)
    with tarfile.open(Path(__file__).with_name("synthea.tar.xz")) as archive:
        archive.extractall(tmp_path / "synthea", **_SAFELY)
    return tmp_path / "synthea"


@pytest.fixture
def written(
    synthea: Path, sekmet: Sekmet, client_key: str, home: Path, make_tenant: MakeTenant, open_run: OpenLayer, database: Any
) -> tuple[Sekmet, str, TenantReport]:
    """The chain has run: the server, the tenant's identifier system, and where every row ended."""
    from fhir_writeback_dagster.commit.mirror.refresh import refresh
    from fhir_writeback_dagster.commit.pipeline import commit
    from fhir_writeback_dagster.decide.pipeline import decide
    from fhir_writeback_dagster.ingest.pipeline import land, normalise

    held = chart(synthea)
    sekmet.load([*held, *(_permits_all(patient["id"]) for patient in held if patient["resourceType"] == "Patient")])
    key = home / "keys" / "synthea.jwk"
    key.touch(mode=0o600)
    key.write_text(client_key)
    auth = {
        "type": "smart_backend",
        "client_id": CLIENT_ID,
        "private_key": "file://keys/synthea.jwk",
        "scopes": ["system/*.cruds"],
    }
    tenant = make_tenant(
        "synthea",
        ehr={"base_url": sekmet.base_url, "sandbox": True, "auth": auth},
        closed_encounter="permit",
        consent={"none_found": "permit"},
        modes={"default": "auto"},
        mappings={"observation": 1},
        sources={
            "synthea_csv": {
                "version": 1,
                "landing": "landing/synthea/synthea_csv",
                "choices": {"ended_order": _why_orders_end(synthea)},
            }
        },
    )
    (source,) = tenant.sources.values()
    for table in synthea.glob("*.csv"):
        shutil.copyfile(table, home / source.landing / f".{table.name}")
        (home / source.landing / f".{table.name}").rename(home / source.landing / table.name)
    with open_run("ingest", tenant) as run:
        land(run)
        normalise(run)
    with open_run("commit", tenant) as run:
        refresh(run)
    with open_run("decide", tenant) as run:
        decide(run, deadline_s=300)
    with open_run("commit", tenant) as run:
        commit(run, deadline_s=300)
    return sekmet, tenant.identifier_system, read_report(database.dsn("status"))["synthea"]


def test_every_written_resource_agrees_with_its_twin(
    written: tuple[Sekmet, str, TenantReport], synthea: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sekmet, system, report = written
    resources = [r for kind in KINDS for r in sekmet.search(kind, identifier=f"{system}|")]
    result = compare(resources, bundles(synthea))
    counts = Counter(r["resourceType"] for r in resources)
    with capsys.disabled():
        sys.stdout.write(f"\n{_told(report)}\nresources {dict(counts)}\n{result.table()}\n")
    assert report.adds_up
    assert not result.differing
    assert not result.without_twin
    assert not result.unwritten
    assert report.created == len(resources)
    assert report.reasons["in_review"] == {"patient_deceased": _of_the_deceased(synthea)}
    assert set(report.reasons["not_written"]) == {"reference_only", "source_truth_only"}
    assert report.ends["created"] + report.ends["in_review"] + report.ends["not_written"] == report.rows
    _patients_untouched(sekmet, synthea)


def _why_orders_end(synthea: Path) -> str:
    """What this version of Synthea calls an order with a STOP: what a tenant knows of its source, and no row says."""
    statuses = Counter(order["status"] for order in bundles(synthea)["MedicationRequest"] if order["status"] != "active")
    return str(statuses.most_common(1)[0][0])


def _permits_all(patient: str) -> dict[str, Any]:
    """A consent that names what a general one does not cover: Synthea's lives hold adolescence, drugs and despair."""
    named = [{"system": ACT_CODE, "code": code} for code in sorted(RESTRICTED)]
    return {
        "resourceType": "Consent",
        "id": f"c-{patient}"[:64],
        "status": "active",
        "scope": {"coding": [{"system": CONSENT_SCOPE, "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": f"Patient/{patient}"},
        "policyRule": {"coding": [{"system": ACT_CODE, "code": "OPTIN"}]},
        "provision": {"type": "permit", "provision": [{"type": "permit", "securityLabel": named}]},
    }


def _told(report: TenantReport) -> str:
    lines = [f"{report.rows} rows of {report.extracts} files, {report.refused} refused"]
    lines += [f"  {end}: {n} {report.reasons.get(end, {})}" for end, n in report.ends.items() if n]
    return "\n".join(lines)


def _patients_untouched(sekmet: Sekmet, synthea: Path) -> None:
    for kind in ("Patient", "Encounter"):
        loaded = sum(r["resourceType"] == kind for r in chart(synthea))
        assert sekmet.chart.count(kind) == sekmet.chart.versions(kind) == loaded


def _of_the_deceased(synthea: Path) -> int:
    """Rows that would be written if their patient lived."""
    dead = {row["Id"] for row in rows(synthea, "patients") if row["DEATHDATE"]}
    tables = ("observations", "conditions", "medications", "allergies", "immunizations", "procedures")
    return sum(row["PATIENT"] in dead and row["CODE"] not in SCORES for table in tables for row in rows(synthea, table))
