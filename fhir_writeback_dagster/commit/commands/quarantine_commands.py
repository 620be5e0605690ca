"""``fhir-writeback quarantine``: let go, in bulk, what was given up for one cause. All of it is audited."""

from __future__ import annotations

import getpass
import json

import click

from fhir_writeback_dagster.commit.ledger.releases import count_quarantined, release
from fhir_writeback_dagster.orchestration.run_context import OpenRuns


@click.command("release")
@click.option("--reason", required=True, help="Code for which it is in quarantine, such as gateway.")
@click.option("--tenant", help="Only this tenant. Default: all.")
@click.option("--by", default=getpass.getuser, help="Who. Default: the user of this machine.", show_default=False)
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a tenant.")
@click.pass_obj
def release_command(  # noqa: PLR0913 - one parameter an option
    open_runs: OpenRuns, *, reason: str, tenant: str | None, by: str, dry_run: bool, as_json: bool
) -> None:
    """Decide again on the writes that are in quarantine for one REASON: each goes through consent, policy and the gate anew."""
    with open_runs("commit", tenant) as runs:
        for run in runs:
            with run.store.tenant(run.id) as connection:
                count = count_quarantined(connection, run, reason) if dry_run else release(connection, run, reason, by)
            if as_json:
                click.echo(json.dumps({"tenant": run.id, "reason": reason, "released": count, "dry_run": dry_run}))
            else:
                click.echo(f"{run.id}: {count} {'would be decided again' if dry_run else 'are decided again by the next run'}")
