"""``fhir-writeback target probe`` and ``target keys``: what an EHR really does, and the client's own keys."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from fhir_writeback_dagster.commit.auth import client_keys
from fhir_writeback_dagster.commit.auth.discovery import ENDPOINT_CHANGED
from fhir_writeback_dagster.commit.auth.scopes import written_types
from fhir_writeback_dagster.commit.fhir_client import open_ehr
from fhir_writeback_dagster.commit.probe import drift
from fhir_writeback_dagster.commit.probe.experiments import Probe, ProbeFinding
from fhir_writeback_dagster.commit.probe.snapshot import Difference, Snapshot
from fhir_writeback_dagster.config.secrets import resolve
from fhir_writeback_dagster.config.user import current_user
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.orchestration.run_context import OpenRuns, RunContext
from fhir_writeback_dagster.rules.target.capabilities import NOT_READ, Target
from fhir_writeback_dagster.rules.target.matrix import load_vendor

_by_option = click.option("--by", default=current_user, help="Who. Default: the user of this machine.", show_default=False)


@dataclass(frozen=True, slots=True)
class Report:
    """What a probe of one tenant's target came to."""

    snapshot: Snapshot
    findings: tuple[ProbeFinding, ...]
    refused: dict[str, str]
    """Resource types that the tenant's mappings write and the target does not take."""
    drifted: tuple[Difference, ...]
    unanswered: tuple[str, ...]
    unproven: bool
    """What decides whether writing is safe had no answer."""
    left: tuple[str, ...]

    @property
    def safe(self) -> bool:
        """What writing relies on was asked for, and is as the matrix says and as it was approved last."""
        differing = [*(one.breaking for one in self.findings), *(one.breaking for one in self.drifted)]
        return not self.unproven and not any(differing)

    def to_json(self) -> dict[str, Any]:
        return {
            "safe": self.safe,
            "fhir": self.snapshot["fhir"],
            "findings": [one.to_json() for one in self.findings],
            "refused": self.refused,
            "drifted": [one.to_json() for one in self.drifted],
            "unanswered": list(self.unanswered),
            "unproven": self.unproven,
            "left": list(self.left),
        }


def probe(run: RunContext, *, read_only: bool, approve: bool = False) -> Report:
    """Ask the tenant's target; nothing is stored.

    :param approve: a person approves what it is now, and with it where it says that tokens are had.
    :raises ConfigError: it is no sandbox, and writing was not ruled out.
    :raises TargetError: it does not answer, or is not R4.
    """
    if not (read_only or run.tenant.ehr.sandbox):
        raise ConfigError(
            "production",
            "this EHR is not marked as a sandbox, and a probe writes",
            where=f"tenants/{run.id}.yaml ehr.sandbox",
            fix="probe it with --read-only",
        )

    with run.store.tenant(run.id) as connection:
        before = drift.approved(connection, run)

    async def work() -> tuple[Snapshot, Probe]:
        async with open_ehr(run, moved=approve) as ehr:
            statement, snapshot = await drift.seen(ehr, before)
            asked = Probe(ehr, Target(load_vendor(run.tenant.ehr.vendor), statement), run.tenant.identifier_system)
            if statement is None:
                asked.unanswered.append(f"nonsense: {ENDPOINT_CHANGED}, so no token was asked for")
            else:
                await asked.run(write=not read_only)
            return snapshot, asked

    snapshot, asked = asyncio.run(work())
    refusals = {name: asked.target.refusal(name, "create") for name in written_types(run.tenant, run.settings.mappings / "fhir")}
    drifted = [] if before is None else drift.since(before, snapshot, run)
    return Report(
        snapshot,
        tuple(asked.findings),
        {name: refusal for name, refusal in refusals.items() if refusal not in (None, NOT_READ)},
        tuple(drifted),
        tuple(asked.unanswered),
        asked.unproven,
        tuple(asked.traces.left),
    )


@click.command("probe")
@click.argument("tenant")
@click.option("--read-only", is_flag=True, help="Write nothing: what a production EHR may be asked.")
@click.option("--approve", is_flag=True, help="Store it as approved although it differs, or did not answer.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@_by_option
@click.pass_obj
def probe_command(open_runs: OpenRuns, *, tenant: str, read_only: bool, approve: bool, as_json: bool, by: str) -> None:  # noqa: PLR0913 - one parameter an option
    """Ask TENANT's EHR what it does, beside what the matrix says; on agreement that is what it is compared with nightly.

    Exit code 1 where it does less than the matrix says, or than was approved, and writing relies on it; also where it did not
    answer what would have shown that.
    """
    with open_runs("commit", tenant) as places:
        for run in places:
            report = probe(run, read_only=read_only, approve=approve)
            stored = report.safe or approve
            if stored:
                with run.store.tenant(run.id) as connection:
                    drift.approve(connection, run, report.snapshot, [one.to_json() for one in report.findings], by)
            if as_json:
                click.echo(json.dumps({"tenant": run.id, "approved": stored, **report.to_json()}))
            else:
                click.echo(table(report))
                click.echo(
                    "stored as approved"
                    if stored
                    else "not stored: what writing relies on differs, or is not proved (--approve stores it)"
                )
            if not report.safe:
                raise SystemExit(1)


def table(report: Report) -> str:
    """The report for people: a line a cell, differences marked."""
    width = max((len(one.cell) for one in report.findings), default=0)
    lines = [
        f"{'!' if one.breaking else '~' if one.differs else ' '} {one.cell:<{width}}  "
        f"{'' if one.expected is None else f'matrix {_word(one.expected)}, '}found {_word(one.found)}"
        for one in report.findings
    ]
    lines += [f"! {name}: {refusal}" for name, refusal in sorted(report.refused.items())]
    lines += [f"{'!' if d.breaking else '~'} since approved: {d.where}: {d.approved} -> {d.now}" for d in report.drifted]
    lines += [f"? no answer: {one}" for one in report.unanswered]
    lines += [f"? left behind: {one}" for one in report.left]
    return "\n".join(lines)


def _word(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


@click.command("keys")
@click.argument("tenant")
@click.argument("step", type=click.Choice(["show", "publish", "switch", "retire", "jwks"]))
@click.option("--algorithm", type=click.Choice(["RS384", "ES384"]), help="Of a new key. Default: the current one's.")
@click.option("--wait", "hours", type=float, help="Hours since the last step. Default: 24 before switch, 1 before retire.")
@click.pass_obj
def keys_command(
    open_runs: OpenRuns, *, tenant: str, step: str, algorithm: Literal["RS384", "ES384"] | None, hours: float | None
) -> None:
    """Rotate TENANT's client key: publish a next one, wait until the EHR has read it, switch to it, retire the old.

    The JWKS to publish is written to jwks/TENANT.json; `jwks` prints it. The tokens of the next run are had with the new key.
    """
    with open_runs("commit", tenant) as places:
        for run in places:
            for kid, kind, state in rotate(run, step, algorithm, hours):
                click.echo(f"{kid}  {kind}  {state}")
            if step == "jwks":
                click.echo(json.dumps(client_keys.public(_read(run)), indent=1))


def rotate(
    run: RunContext, step: str, algorithm: Literal["RS384", "ES384"] | None = None, hours: float | None = None
) -> list[tuple[str, str, str]]:
    """Do one step of the rotation; returns (kid, algorithm, state) of every key afterwards.

    :raises ConfigError: it is not time for that step, or the key stands where this command may not write.
    """
    keys = _read(run)
    if step == "publish":
        keys = client_keys.published(keys, algorithm)
    elif step == "switch":
        keys = client_keys.switched(keys, 3600 * (24.0 if hours is None else hours))
    elif step == "retire":
        keys = client_keys.retired(keys, 3600 * (1.0 if hours is None else hours))
    else:
        return client_keys.describe(keys)
    reference = run.tenant.ehr.auth.private_key or ""
    if not reference.startswith("file://"):
        raise ConfigError(
            "rotation",
            f"{reference.partition(':')[0]} secrets are changed in their own store",
            where=f"tenants/{run.id}.yaml ehr.auth.private_key",
            fix="rotate a copy in a file, and put its content there at each step",
        )
    # What is published comes first: a key that signs and is unknown to the EHR would be refused.
    _write(run.settings.home / "jwks" / f"{run.id}.json", client_keys.public(keys), 0o644)
    _write(run.settings.home / reference.removeprefix("file://"), {"keys": keys}, 0o600)
    return client_keys.describe(keys)


def _read(run: RunContext) -> list[dict[str, Any]]:
    where = f"tenants/{run.id}.yaml ehr.auth.private_key"
    if run.tenant.ehr.auth.private_key is None:
        raise ConfigError("no_credential", "not set", where=where, fix="name the key by reference")
    return client_keys.read_keys(resolve(run.tenant.ehr.auth.private_key, run.settings.home).reveal(), where)


def _write(path: Path, content: dict[str, Any], mode: int) -> None:
    """Whole or not at all: a reader never sees half a key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    beside.touch(mode=mode)
    beside.write_text(json.dumps(content), encoding="utf-8")
    beside.replace(path)
