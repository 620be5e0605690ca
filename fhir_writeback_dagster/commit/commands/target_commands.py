"""``fhir-writeback target``: see how each tenant's EHR stands, and drain, pause, resume or release it. All of it is audited."""

from __future__ import annotations

import json
import math

import click

from fhir_writeback_dagster.commit.auth import credential_log
from fhir_writeback_dagster.commit.limits import holds
from fhir_writeback_dagster.commit.limits.holds import DesiredState, Hold
from fhir_writeback_dagster.commit.probe import drift
from fhir_writeback_dagster.config.user import current_user
from fhir_writeback_dagster.orchestration.run_context import OpenRuns
from fhir_writeback_dagster.orchestration.target_standing import TargetStanding, read_standings
from fhir_writeback_dagster.store.db import connect

_reason_option = click.option("--reason", required=True, help="Why, for the audit log; no patient's data.")
_by_option = click.option("--by", default=current_user, help="Who. Default: the user of this machine.", show_default=False)


@click.command("show")
@click.argument("tenant", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a tenant.")
@click.pass_obj
def show_command(open_runs: OpenRuns, *, tenant: str | None, as_json: bool) -> None:
    """How TENANT's EHR stands, or each tenant's: what holds it back, what waits, how it answered, what needs a person's look."""
    with open_runs("commit", tenant) as places:
        for run in places:
            with run.store.tenant(run.id) as connection:
                holds.standing(connection, run)  # a blackout that began is a hold from now on
                warnings = [*credential_log.warnings(connection, run), *drift.warnings(connection, run)]
            with connect(run.settings.dsn, application="fhir_writeback_target") as connection:
                known = [one for one in read_standings(connection, run.id) if one.target == run.tenant.ehr.target]
            stands = known[0] if known else TargetStanding(run.id, run.tenant.ehr.target)
            if as_json:
                click.echo(json.dumps({"tenant": run.id, **stands.to_json(), "warnings": warnings}))
            else:
                for line in (*stands.lines(run.now()), *(f"  {warning}" for warning in warnings)):
                    click.echo(line)


@click.command("pause")
@click.argument("tenant")
@_reason_option
@_by_option
@click.pass_obj
def pause_command(open_runs: OpenRuns, *, tenant: str, reason: str, by: str) -> None:
    """Send nothing more to TENANT's EHR; what is in flight is finished."""
    _set(open_runs, tenant, "paused", by, reason)


@click.command("drain")
@click.argument("tenant")
@_reason_option
@_by_option
@click.pass_obj
def drain_command(open_runs: OpenRuns, *, tenant: str, reason: str, by: str) -> None:
    """Take up nothing new for TENANT's EHR, and bring to its end what was taken up."""
    _set(open_runs, tenant, "draining", by, reason)


@click.command("resume")
@click.argument("tenant")
@_reason_option
@_by_option
@click.pass_obj
def resume_command(open_runs: OpenRuns, *, tenant: str, reason: str, by: str) -> None:
    """Go on after `pause` or `drain`. What the cap holds stays held: see `target release`."""
    _set(open_runs, tenant, "running", by, reason)


@click.command("release")
@click.argument("tenant")
@_reason_option
@_by_option
@click.pass_obj
def release_command(open_runs: OpenRuns, *, tenant: str, reason: str, by: str) -> None:
    """Let go what the cap of writes a day, or a target that was down, holds back; the cap counts anew from now. What drifted from
    what was approved stays held until it is approved (`target probe`)."""
    with open_runs("commit", tenant) as places:
        for run in places:
            with run.store.tenant(run.id) as connection:
                released = holds.release(connection, run, by, reason)
                hold = holds.read(connection, run)
            still = f"still {_described(hold)}: fhir-writeback target probe {run.id} shows what changed, --approve approves it"
            nothing = still if hold.because == "drift" else "nothing was held"
            click.echo(f"{run.id}: {'released; the next run goes on' if released else nothing}")


def _set(open_runs: OpenRuns, tenant: str, wanted: DesiredState, by: str, reason: str) -> None:
    with open_runs("commit", tenant) as places:
        for run in places:
            with run.store.tenant(run.id) as connection:
                holds.set_desired_state(connection, run, wanted, by, reason)
                hold = holds.standing(connection, run)
            click.echo(f"{run.id}: {run.tenant.ehr.target} is {_described(hold)}")


def _described(hold: Hold) -> str:
    if hold.seconds <= 0:
        return hold.desired_state
    until = "until a person releases it" if math.isinf(hold.seconds) else f"for {hold.seconds:.0f} s more"
    return f"{hold.desired_state}, held back {until} ({hold.because})"
