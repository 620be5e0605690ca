"""``fhir-writeback target validate``: payloads before the EHR's own validator, where it has one. Nothing is stored there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.commit.fhir_client import FHIR_JSON, open_ehr
from fhir_writeback_dagster.commit.http.request import Request
from fhir_writeback_dagster.commit.protocol.answer import Answer, dicts
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.orchestration.run_context import OpenRuns, RunContext

_BAD = ("fatal", "error")


@dataclass(frozen=True, slots=True)
class ValidatedPayload:
    """What the EHR says of one payload: ``issues`` are (severity, code, path), never a text, which may quote a value."""

    name: str
    status: int
    issues: tuple[tuple[str, str, str], ...]

    @property
    def valid(self) -> bool:
        return self.status < 300 and not any(severity in _BAD for severity, _, _ in self.issues)


def validate(run: RunContext, payloads: dict[str, dict[str, Any]]) -> list[ValidatedPayload]:
    """Ask the tenant's EHR about each payload, by name.

    :raises ConfigError: it is no sandbox: a payload that is asked about may hold a patient.
    :raises TargetError: no token could be had.
    """
    if not run.tenant.ehr.sandbox:
        raise ConfigError(
            "production",
            "this EHR is not marked as a sandbox",
            where=f"tenants/{run.id}.yaml ehr.sandbox",
            fix="validate against a staging EHR",
        )

    async def work() -> list[ValidatedPayload]:
        async with open_ehr(run) as ehr:
            return [_judged(name, await ehr.send(_validation(payload))) for name, payload in payloads.items()]

    return asyncio.run(work())


def _validation(payload: dict[str, Any]) -> Request:
    return Request("POST", f"{payload['resourceType']}/$validate", {"Content-Type": FHIR_JSON}, canonicaljson.encode(payload))


def _judged(name: str, answer: Answer) -> ValidatedPayload:
    found = answer.resource() or {}
    issues = [
        (str(one.get("severity", "")), str(one.get("code", "")), str((one.get("expression") or one.get("location") or [""])[0]))
        for one in dicts(found.get("issue"))
    ]
    return ValidatedPayload(name, answer.status, tuple(issues))


@click.command("validate")
@click.argument("tenant")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a file.")
@click.pass_obj
def validate_command(open_runs: OpenRuns, *, tenant: str, files: Sequence[Path], as_json: bool) -> None:
    """Ask TENANT's staging EHR by $validate whether it would take the resources in FILES. Exit code 1 where one is not valid."""
    payloads = {str(path): _read(path) for path in files}
    with open_runs("commit", tenant) as places:
        for run in places:
            judged = validate(run, payloads)
            for one in judged:
                if as_json:
                    click.echo(json.dumps({"file": one.name, "valid": one.valid, "status": one.status, "issues": one.issues}))
                    continue
                click.echo(f"{one.name}: {'valid' if one.valid else f'not valid ({one.status})'}")
                for severity, code, path in one.issues:
                    click.echo(f"  {severity}  {code}  {path}")
            if not all(one.valid for one in judged):
                raise SystemExit(1)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("resourceType"), str):
        raise ConfigError("no_resource", "not a FHIR resource as JSON", where=str(path), fix="one resource a file")
    return found
