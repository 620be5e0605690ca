"""``fhir-writeback mode``: see, change and act on what a tenant may write. Every change is audited with who and why."""

from __future__ import annotations

import json
from typing import get_args

import click

from fhir_writeback_dagster.config.tenants import Mode
from fhir_writeback_dagster.config.user import current_user
from fhir_writeback_dagster.decide.ruling.mode_changes import replay, set_mode
from fhir_writeback_dagster.orchestration.run_context import OpenRuns
from fhir_writeback_dagster.rules.fhir.r4 import definitions
from fhir_writeback_dagster.rules.modes import writes

_HELD = (
    "SELECT count(*) FROM decision.candidate WHERE tenant = %s AND target = %s AND state = 'not_written' "
    "AND (%s::text IS NULL OR resource_type = %s)"
)
_type_option = click.option(
    "--type", "resource_type", type=click.Choice(definitions().written), help="Only this resource type. Default: all."
)
_reason_option = click.option("--reason", required=True, help="Why, for the audit log; no patient's data.")
_by_option = click.option("--by", default=current_user, help="Who. Default: the user of this machine.", show_default=False)


@click.command("show")
@click.argument("tenant", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a tenant.")
@click.pass_obj
def show_command(open_runs: OpenRuns, *, tenant: str | None, as_json: bool) -> None:
    """The modes of TENANT, or of all, and how many writes they hold back."""
    with open_runs("decide", tenant) as places:
        for run in places:
            with run.store.tenant(run.id) as connection:
                row = connection.execute(_HELD, (run.id, run.tenant.ehr.target, None, None)).fetchone()
            held, modes = row[0] if row else 0, run.tenant.modes
            if as_json:
                click.echo(json.dumps({"tenant": run.id, **modes.model_dump(mode="json"), "held_back": held}))
            else:
                own = "".join(f", {kind} {mode}" for kind, mode in sorted(modes.by_type.items()))
                click.echo(f"{run.id}: {modes.default}{own}; {held} held back")


@click.command("set")
@click.argument("tenant")
@click.argument("mode", type=click.Choice(get_args(Mode)))
@_type_option
@_reason_option
@_by_option
@click.pass_obj
def set_command(open_runs: OpenRuns, *, tenant: str, mode: Mode, resource_type: str | None, reason: str, by: str) -> None:
    """Set TENANT's MODE. What `off` or `shadow` held back is not sent by it: see `mode replay`."""
    with open_runs("decide", tenant) as places:
        for run in places:
            set_mode(run, mode, resource_type, by, reason)
            with run.store.tenant(run.id) as connection:
                row = connection.execute(_HELD, (run.id, run.tenant.ehr.target, resource_type, resource_type)).fetchone()
            click.echo(f"{run.id}: {resource_type or 'default'} is {mode}")
            if row and row[0] and writes(mode):
                click.echo(f"{row[0]} writes that were held back stay so; `fhir-writeback mode replay` decides them again")


@click.command("replay")
@click.argument("tenant")
@_type_option
@_reason_option
@_by_option
@click.pass_obj
def replay_command(open_runs: OpenRuns, *, tenant: str, resource_type: str | None, reason: str, by: str) -> None:
    """Decide again what `off` or `shadow` held back, under today's mapping, consents and policies."""
    with open_runs("decide", tenant) as places:
        for run in places:
            click.echo(f"{run.id}: {replay(run, resource_type, by, reason)} are decided again by the next run")
