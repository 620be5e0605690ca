"""``fhir-writeback target``: see how each tenant's EHR stands, and drain, pause, resume or release it. All of it is audited."""

from __future__ import annotations

import getpass
import json
import math

import click

from fhir_writeback_dagster.commit.auth import credential_log
from fhir_writeback_dagster.commit.ledger import intents
from fhir_writeback_dagster.commit.limits import holds
from fhir_writeback_dagster.commit.limits.holds import Hold, Wish
from fhir_writeback_dagster.commit.probe import drift
from fhir_writeback_dagster.orchestration.run_context import Desk

_reason_option = click.option("--reason", required=True, help="Why, for the audit log; no patient's data.")
_by_option = click.option("--by", default=getpass.getuser, help="Who. Default: the user of this machine.", show_default=False)


@click.command("show")
@click.argument("tenant", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a tenant.")
@click.pass_obj
def show_command(desk: Desk, *, tenant: str | None, as_json: bool) -> None:
    """What holds TENANT's EHR back, or each tenant's, how many writes wait, and what about it needs a person's look."""
    with desk("commit", tenant) as places:
        for w in places:
            with w.store.tenant(w.id) as connection:
                hold, waiting = holds.standing(connection, w), intents.waiting(connection, w)
                warnings = [*credential_log.warnings(connection, w), *drift.warnings(connection, w)]
            if as_json:
                seconds = None if math.isinf(hold.seconds) else round(hold.seconds)
                told = {"wish": hold.wish, "held": hold.reason, "seconds": seconds, "failures": hold.failures}
                click.echo(
                    json.dumps({"tenant": w.id, "target": w.tenant.ehr.target, **told, "waiting": waiting, "warnings": warnings})
                )
            else:
                queue = ", ".join(f"{count} {state}" for state, count in sorted(waiting.items())) or "nothing"
                click.echo(f"{w.id}: {w.tenant.ehr.target} is {_described(hold)}; waiting: {queue}")
                for warning in warnings:
                    click.echo(f"  {warning}")


@click.command("pause")
@click.argument("tenant")
@_reason_option
@_by_option
@click.pass_obj
def pause_command(desk: Desk, *, tenant: str, reason: str, by: str) -> None:
    """Send nothing more to TENANT's EHR; what is in flight is finished."""
    _wish(desk, tenant, "paused", by, reason)


@click.command("drain")
@click.argument("tenant")
@_reason_option
@_by_option
@click.pass_obj
def drain_command(desk: Desk, *, tenant: str, reason: str, by: str) -> None:
    """Take up nothing new for TENANT's EHR, and bring to its end what was taken up."""
    _wish(desk, tenant, "draining", by, reason)


@click.command("resume")
@click.argument("tenant")
@_reason_option
@_by_option
@click.pass_obj
def resume_command(desk: Desk, *, tenant: str, reason: str, by: str) -> None:
    """Go on after `pause` or `drain`. What the cap holds stays held: see `target release`."""
    _wish(desk, tenant, "running", by, reason)


@click.command("release")
@click.argument("tenant")
@_reason_option
@_by_option
@click.pass_obj
def release_command(desk: Desk, *, tenant: str, reason: str, by: str) -> None:
    """Let go what the cap of writes a day, or a target that was down, holds back; the cap counts anew from now. What drifted from
    what was approved stays held until it is approved (`target probe`)."""
    with desk("commit", tenant) as places:
        for w in places:
            with w.store.tenant(w.id) as connection:
                released = holds.release(connection, w, by, reason)
                hold = holds.read(connection, w)
            still = f"still {_described(hold)}: fhir-writeback target probe {w.id} shows what changed, --approve approves it"
            nothing = still if hold.because == "drift" else "nothing was held"
            click.echo(f"{w.id}: {'released; the next run goes on' if released else nothing}")


def _wish(desk: Desk, tenant: str, wanted: Wish, by: str, reason: str) -> None:
    with desk("commit", tenant) as places:
        for w in places:
            with w.store.tenant(w.id) as connection:
                holds.wish(connection, w, wanted, by, reason)
                hold = holds.standing(connection, w)
            click.echo(f"{w.id}: {w.tenant.ehr.target} is {_described(hold)}")


def _described(hold: Hold) -> str:
    if hold.seconds <= 0:
        return hold.wish
    until = "until a person releases it" if math.isinf(hold.seconds) else f"for {hold.seconds:.0f} s more"
    return f"{hold.wish}, held back {until} ({hold.because})"
