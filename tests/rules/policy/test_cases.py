"""`policy test` as somebody who changes a policy uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conftest import MakeTenant

from fhir_writeback_dagster.canonical import KINDS
from fhir_writeback_dagster.cli import main
from fhir_writeback_dagster.rules.policy.cases import _RESOURCE_TYPES


@pytest.fixture(autouse=True)
def _here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_WRITEBACK_HOME", str(home))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["policy", "test", *map(str, arguments)])


def cases(folder: Path, text: str) -> Path:
    path = folder / "cases.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_cases_pass() -> None:
    result = run()
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "9 cases, 0 failed"


def test_every_kind_has_the_type_that_it_is_written_as() -> None:
    assert set(_RESOURCE_TYPES) == set(KINDS)


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("{name: c, expect: review}", "FAIL  c: expected review, is automatic (baseline-propose, baseline-auto-sources)"),
        ("{name: c, ask: {kind: genome}, expect: review}", "FAIL  c: expected review, is denied (nothing permits it)"),
        (
            "{name: c, expect: automatic, by: [baseline-auto-agents]}",
            "FAIL  c: expected automatic by baseline-auto-agents, is automatic",
        ),
    ],
)
def test_a_case_that_comes_out_otherwise_fails_with_the_deciding_policies(tmp_path: Path, case: str, told: str) -> None:
    result = run(cases(tmp_path, f"policies: [baseline]\ncases:\n  - {case}\n"))
    assert result.exit_code == 1
    assert told in result.stdout


def test_a_case_for_a_tenant_uses_the_tenant_s_policies(tmp_path: Path, make_tenant: MakeTenant) -> None:
    tenant = make_tenant(policies=["baseline", "examples/review_everything"])
    path = cases(tmp_path, f"tenant: {tenant.tenant}\ncases:\n  - {{name: c, expect: review, by: [review-everything]}}\n")
    result = run(path, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "file": str(path),
        "case": "c",
        "expected": "review",
        "outcome": "review",
        "policy_ids": ["review-everything"],
        "passed": True,
    }


def test_time_is_said_or_a_fixed_noon(tmp_path: Path) -> None:
    text = """
policies: [baseline, examples/freeze_window]
defaults: {confidence: 0.95}
cases:
  - {name: noon, expect: automatic}
  - {name: frozen, ask: {now: 2026-12-06T03:00:00Z}, expect: review, by: [upgrade-2026-12]}
"""
    assert run(cases(tmp_path, text)).exit_code == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("policies: [nosuch]\ncases:\n  - {name: c, expect: review}\n", "no policies nosuch"),
        ("policies: [baseline]\ncases:\n  - {name: c, expect: maybe}\n", "cases.yaml:3"),
        ("policies: [baseline]\ncases:\n  - {name: c, expect: review, ask: {kid: x}}\n", "ask.kid"),
        ("policies: [baseline]\ncases:\n  - {name: c, expect: review, ask: {actor: robot}}\n", "ask.actor"),
        ("policies: [baseline]\ncases:\n  - {name: c, expect: review, ask: {now: 2026-01-01}}\n", "ask.now"),
        ("policies: [baseline]\ncases:\n  - {name: c, expect: review, by: [typo]}\n", "`by` names typo"),
        ("cases:\n  - {name: c, expect: review}\n", "expected either `tenant` or `policies`"),
        ("policies: [baseline]\ncases: []\n", "cases"),
        ("tenant: nobody\ncases:\n  - {name: c, expect: review}\n", "no tenant nobody"),
        ("policies: [\n", "bad_yaml"),
    ],
)
def test_a_bad_file_is_told_and_nothing_else(tmp_path: Path, text: str, told: str) -> None:
    result = run(cases(tmp_path, text))
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stdout == ""


def test_a_project_without_cases_says_where_to_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_WRITEBACK_HOME", str(tmp_path))
    result = run()
    assert (result.exit_code, "policies/cases: there are no cases" in result.stderr) == (2, True)
