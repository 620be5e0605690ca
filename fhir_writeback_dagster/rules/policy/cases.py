"""``fhir-writeback policy test``: a tenant's own cases, in YAML, asked of its policies before they decide about a write."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

import click
from pydantic import AwareDatetime, Field, model_validator

from fhir_writeback_dagster.config import settings
from fhir_writeback_dagster.config.strict_model import StrictModel
from fhir_writeback_dagster.config.tenants import load_tenant
from fhir_writeback_dagster.config.yaml_file import load_yaml
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.rules.policy.cedar import PolicyDecision, PolicyRequest, PolicySet, load_policies

_RESOURCE_TYPES = {
    "vital_sign": "Observation",
    "lab_result": "Observation",
    "observation": "Observation",
    "condition": "Condition",
    "medication_request": "MedicationRequest",
    "allergy": "AllergyIntolerance",
    "immunization": "Immunization",
    "procedure": "Procedure",
    "document": "DocumentReference",
    "patient": "Patient",
}
#: A Monday noon: a case that is not about time says none and always comes out the same.
_NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


class CaseRequest(StrictModel):
    """A write; what is left out comes from the file's defaults, and then from here."""

    source: str = "source"
    actor: str = Field("source/source", pattern=r"^(source|agent)/\S.*$", description="source/<id> or agent/<id>")
    kind: str = "vital_sign"
    resource_type: str | None = Field(None, description="default: the type that the kind is written as")
    interaction: Literal["create", "update"] = "create"
    confidence: Decimal | None = Field(None, ge=0, le=1)
    basis: Literal["observed", "inferred"] = "observed"
    codes: tuple[str, ...] = Field((), description="system|code")
    labels: tuple[str, ...] = Field((), description="system|code of security labels")
    encounter_status: str | None = None
    now: AwareDatetime = _NOON


class Case(StrictModel):
    name: str
    ask: CaseRequest = CaseRequest()
    expect: Literal["denied", "review", "automatic"]
    by: tuple[str, ...] = Field((), description="ids of policies that must be among those that decided")


class Cases(StrictModel):
    """A file of cases, for a tenant (its policies) or for policies by name."""

    tenant: str | None = None
    policies: tuple[str, ...] | None = None
    defaults: CaseRequest = CaseRequest()
    cases: tuple[Case, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_of_them(self) -> Cases:
        if (self.tenant is None) == (self.policies is None):
            raise ValueError("expected either `tenant` or `policies`")
        return self


@dataclass(frozen=True, slots=True)
class CaseResult:
    file: str
    case: Case
    decision: PolicyDecision

    @property
    def passed(self) -> bool:
        return self.decision.outcome == self.case.expect and set(self.case.by) <= set(self.decision.policy_ids)


def run_cases(home: Path, files: Sequence[Path]) -> list[CaseResult]:
    """Ask every case of ``files``, in their order, of the policies of the project in ``home``.

    :raises ConfigError: a file, its tenant or a policy is wrong; with file and line.
    """
    results = []
    for path in files:
        cases = load_yaml(path, Cases)
        policies = _policies(home, cases, path)
        asks = [_ask(cases, case) for case in cases.cases]
        results += [CaseResult(str(path), c, d) for c, d in zip(cases.cases, policies.decide(asks), strict=True)]
    return results


def _policies(home: Path, cases: Cases, path: Path) -> PolicySet:
    names = cases.policies if cases.tenant is None else load_tenant(home / "tenants", cases.tenant).policies
    policies = load_policies(home / "policies", names or ())
    unknown = sorted({one for case in cases.cases for one in case.by} - set(policies.ids))
    if unknown:
        raise ConfigError(
            "unknown_policy_id",
            f"`by` names {', '.join(unknown)}, which none of the policies is called",
            where=str(path),
            fix="use the @id of a policy",
        )
    return policies


def _ask(cases: Cases, case: Case) -> PolicyRequest:
    ask = cases.defaults.model_copy(update={name: getattr(case.ask, name) for name in case.ask.model_fields_set})
    actor_type, actor_id = ask.actor.split("/", 1)
    return PolicyRequest(
        tenant=cases.tenant or "tenant",
        source=ask.source,
        actor_type=actor_type,
        actor_id=actor_id,
        kind=ask.kind,
        resource_type=ask.resource_type or _RESOURCE_TYPES.get(ask.kind, "Basic"),
        interaction=ask.interaction,
        confidence=ask.confidence,
        basis=ask.basis,
        codes=ask.codes,
        encounter_status=ask.encounter_status,
        now=ask.now,
        labels=ask.labels,
    )


@click.command("test")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a case.")
def policy_test_command(*, files: tuple[Path, ...], as_json: bool) -> None:
    """Ask your policies your cases: FILES, or all of policies/cases.

    Exit code 1 if a case comes out otherwise than it expects, 2 if a file is wrong.
    """
    home = settings.home()
    results = run_cases(home, files or _all_cases(home / "policies" / "cases"))
    for result in results:
        click.echo(json.dumps(_to_json(result)) if as_json else _told(result))
    failed = sum(not result.passed for result in results)
    if not as_json:
        click.echo(f"{len(results)} cases, {failed} failed")
    sys.exit(1 if failed else 0)


def _all_cases(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise ConfigError("no_cases", "there are no cases", where=str(folder), fix="write some: see docs/policy.md")
    return files


def _to_json(result: CaseResult) -> dict[str, object]:
    return {
        "file": result.file,
        "case": result.case.name,
        "expected": result.case.expect,
        "outcome": result.decision.outcome,
        "policy_ids": result.decision.policy_ids,
        "passed": result.passed,
    }


def _told(result: CaseResult) -> str:
    by = ", ".join(result.decision.policy_ids) or "nothing permits it"
    if result.passed:
        return f"ok    {result.case.name}: {result.decision.outcome} ({by})"
    wanted = result.case.expect + (f" by {', '.join(result.case.by)}" if result.case.by else "")
    return f"FAIL  {result.case.name}: expected {wanted}, is {result.decision.outcome} ({by})"
