"""What another mapping or other policies would have made of the last candidates: told in counts, paths and ids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeTenant, OpenLayer
from decide.stage import Stage
from support import PROJECT

from fhir_writeback_dagster.decide.commands.mapping_diff import mapping_diff_command
from fhir_writeback_dagster.decide.commands.policy_diff import policy_diff_command

NO_HEART_RATES = """
@id("no-heart-rates")
forbid (principal, action, resource == Writeback::Kind::"vital_sign");
"""


@pytest.fixture
def stage(make_tenant: MakeTenant, open_run: OpenLayer, home: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setenv("FHIR_WRITEBACK_HOME", str(home))
    stage = Stage(make_tenant(None, consent={"none_found": "permit"}), open_run)
    stage.mirror({"id": "p100", "mrn": "100"})
    for n in range(3):
        stage.tell(row=f"row-{n}", value=70 + n, effective=f"2026-03-01T08:0{n}:00Z")
    stage.decide()
    return stage


@pytest.fixture
def second(home: Path) -> Path:
    """A second version of the mapping of vital signs, to be changed by the test."""
    (home / "mappings").unlink()
    shutil.copytree(PROJECT / "mappings", home / "mappings")
    folder = home / "mappings" / "fhir" / "vital_sign"
    (folder / "2.yaml").write_text((folder / "1.yaml").read_text().replace("version: 1", "version: 2"))
    return folder / "2.yaml"


def diff(stage: Stage, *arguments: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(
        stage.ask(mapping_diff_command, "vital_sign/1", "vital_sign/2", "--json", *arguments).stdout
    )
    return told


def test_a_version_that_says_the_same_changes_nothing(stage: Stage, second: Path) -> None:
    told = diff(stage)
    assert (told["records"], told["same"], told["changed"], told["paths"]) == (3, 3, 0, {})


def test_what_changes_is_told_by_path_and_never_by_value(stage: Stage, second: Path) -> None:
    second.write_text(second.read_text() + "  bodySite: {text: from a scraper}\n")
    told = diff(stage, "--last", "2")
    assert (told["records"], told["same"], told["changed"]) == (2, 0, 2)
    assert told["paths"] == {"bodySite.text": {"added": 2}}
    shown = stage.ask(mapping_diff_command, "vital_sign/1", "vital_sign/2").stdout
    assert "bodySite.text: added in 3" in shown
    assert "scraper" not in shown


def test_another_identity_is_another_fact(stage: Stage, second: Path) -> None:
    second.write_text(second.read_text().replace("precision: second", "precision: day"))
    told = diff(stage)
    assert (told["identity_changed"], told["same"]) == (3, 3)


def test_a_tenant_moves_by_one_line_and_what_says_the_same_makes_no_write(stage: Stage, second: Path, home: Path) -> None:
    path = home / "tenants" / f"{stage.tenant.tenant}.yaml"
    path.write_text(path.read_text().replace("vital_sign: 1", "vital_sign: 2"))
    again = stage.tell(row="row-0", value=70, effective="2026-03-01T08:00:00Z")
    stage.decide()
    assert stage.end_of(again) == ("suppressed", "equal_to_latest")
    second.write_text(second.read_text() + "  bodySite: {text: from a scraper}\n")
    other = stage.tell(row="row-1", value=71, effective="2026-03-01T08:01:00Z")
    stage.decide()
    candidate = stage.candidate(other)
    assert (candidate["state"], candidate["revision"], candidate["mapping_version"]) == ("approved", 2, 2)


@pytest.mark.parametrize("arguments", [["vital_sign", "vital_sign/1"], ["vital_sign/1", "condition/1"], ["vital_sign/x", "y"]])
def test_what_is_no_pair_of_versions_is_told(stage: Stage, arguments: list[str]) -> None:
    assert stage.ask(mapping_diff_command, *arguments).exit_code == 2


def test_the_same_policies_alter_no_verdict(stage: Stage) -> None:
    told = json.loads(stage.ask(policy_diff_command, "--json").stdout)
    assert (told["verdicts"], told["altered"], told["changes"]) == (3, 0, {})


def test_a_change_names_the_verdicts_that_it_would_alter(stage: Stage, home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    for name in ("schema.cedarschema", "baseline.cedar"):
        (folder / name).write_bytes((home / "policies" / name).read_bytes())
    (folder / "baseline.cedar").write_text((folder / "baseline.cedar").read_text() + NO_HEART_RATES)
    told = json.loads(stage.ask(policy_diff_command, "--folder", str(folder), "--last", "2", "--json").stdout)
    assert (told["verdicts"], told["altered"], told["changes"]) == (2, 2, {"automatic -> denied": 2})
    assert {tuple(one["policy_ids"]) for one in told["verdicts_altered"]} == {("no-heart-rates",)}
    assert stage.rows("SELECT count(*) FROM decision.candidate WHERE state = 'approved'")[0]["count"] == 3, "nothing is decided"


def test_a_mode_that_writes_nothing_and_a_consent_that_denies_stand_whatever_the_policies(stage: Stage) -> None:
    text = stage.ask(policy_diff_command, "--policies", "baseline,examples/review_everything").stdout
    assert "3 automatic -> review" in text
    deny = {
        "resourceType": "Consent", "id": "no", "status": "active", "meta": {"versionId": "1"},
        "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": "Patient/p100"}, "provision": {"type": "deny"},
    }  # fmt: skip
    stage.mirror(consents=(deny,))
    stage.tell(row="row-9", effective="2026-03-01T09:00:00Z")
    stage.decide()
    told = json.loads(stage.ask(policy_diff_command, "--policies", "baseline,examples/review_everything", "--json").stdout)
    assert (told["verdicts"], told["changes"]) == (4, {"automatic -> review": 3})
