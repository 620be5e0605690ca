"""The lanes' own jobs with the real pipelines: what a person reads in Dagster of one extract's way to the EHR."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from conftest import MakeTenant
from support import PROJECT

from fhir_writeback_dagster.sandbox.servers.sekmet import Sekmet

SYNTHEA = "https://github.com/synthetichealth/synthea"
PATIENT, ENCOUNTER = "b37f7960-7e9e-f3f7-f891-79ae4f632406", "c485f49b-ceee-5413-7488-94e7c84063fe"
FAMILY = "Zebediahson"
CHART: list[dict[str, Any]] = [
    {
        "resourceType": "Patient",
        "id": PATIENT,
        "identifier": [{"system": SYNTHEA, "value": PATIENT}],
        "name": [{"family": FAMILY, "given": ["Ada"]}],
        "gender": "female",
        "birthDate": "1984-02-29",
    },
    {
        "resourceType": "Encounter",
        "id": ENCOUNTER,
        "identifier": [{"system": SYNTHEA, "value": ENCOUNTER}],
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        "subject": {"reference": f"Patient/{PATIENT}"},
        "period": {"start": "2014-08-22T18:00:00Z", "end": "2014-08-22T19:00:00Z"},
    },
]
EXTRACT = f"""DATE,PATIENT,ENCOUNTER,CATEGORY,CODE,DESCRIPTION,VALUE,UNITS,TYPE
2014-08-22T18:34:30Z,{PATIENT},{ENCOUNTER},vital-signs,8302-2,Body Height,101.8,cm,numeric
2014-08-22T18:34:30Z,{PATIENT},{ENCOUNTER},vital-signs,29463-7,Body Weight,17.3,kg,numeric
some day in August,{PATIENT},{ENCOUNTER},vital-signs,29463-7,Body Weight,17.4,kg,numeric
"""


@pytest.fixture
def run(
    instance: dg.DagsterInstance, layer_environment: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], dg.ExecuteInProcessResult]:
    monkeypatch.setenv("FHIR_WRITEBACK_HOME", str(PROJECT))
    defs = {layer: import_module(f"fhir_writeback_dagster.locations.{layer}").defs for layer in ("ingest", "decide", "commit")}
    instance.add_dynamic_partitions("tenant", ["mercy"])

    def execute(layer: str, lane: str) -> dg.ExecuteInProcessResult:
        layer_environment(layer)
        job: dg.JobDefinition = defs[layer].resolve_job_def(f"{lane}_job")
        result = job.execute_in_process(partition_key="mercy", instance=instance)
        assert result.success
        return result

    return execute


def test_an_extract_comes_to_the_ehr_and_dagster_keeps_counts_and_versions_and_no_patient(
    run: Callable[..., Any],
    open_sekmet: Sekmet,
    make_tenant: MakeTenant,
    home: Path,
    everything_kept: Callable[[], bytes],
    capfd: pytest.CaptureFixture[str],
) -> None:
    open_sekmet.load(CHART)
    make_tenant(
        "mercy",
        ehr={"base_url": open_sekmet.base_url},
        closed_encounter="permit",
        consent={"none_found": "permit"},
    )
    (home / "landing" / "mercy" / "synthea_csv" / f"observations_{FAMILY}.csv").write_text(EXTRACT)

    said = {}
    checks: dict[str, Any] = {}
    for layer, lane in (("ingest", "ingest"), ("commit", "mirror"), ("decide", "decide"), ("commit", "commit")):
        result = run(layer, lane)
        for event in result.get_asset_materialization_events():
            key = event.materialization.asset_key.to_user_string()
            said[key] = {name: value.value for name, value in event.materialization.metadata.items()}
        checks |= {check.check_name: check for check in result.get_asset_check_evaluations()}

    assert said["scraped_extracts"]["landed"] == 1
    assert "synthea_csv v1" in said["scraped_extracts"]["sources"]
    assert said["write_candidates"]["state/approved"] == 2
    assert "vital_sign/1@" in said["write_candidates"]["mappings"]
    assert said["ehr_mirror"]["changed/Patient"] == 1
    assert said["committed_resources"]["created"] == 2
    assert len(open_sekmet.search("Observation")) == 2

    assert checks, "the batch was looked at by Great Expectations"
    assert all(name.startswith("vital_sign_") for name in checks)
    assert [name for name, check in checks.items() if not check.passed] == ["vital_sign_fresh"], "the extract is of 2014"
    assert {check.partition for check in checks.values()} == {"mercy"}

    kept = everything_kept() + "".join(capfd.readouterr()).encode()
    assert b"committed_resources" in kept
    for value in (PATIENT, ENCOUNTER, FAMILY, "some day in August", "101.8", "1984-02-29"):
        assert value.encode() not in kept, f"{value[:4]}… is in Dagster's storage or the run's output"
