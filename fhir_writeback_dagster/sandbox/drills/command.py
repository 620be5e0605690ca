"""``fhir-writeback drill``: play a misfortune on the sandbox and show whether the promises held."""

from __future__ import annotations

import json
import sys

import click

from fhir_writeback_dagster.sandbox.drills.catalogue import BY_NAME, DRILLS
from fhir_writeback_dagster.sandbox.drills.servers import SERVERS


@click.command("drill")
@click.argument("name", required=False, type=click.Choice(list(BY_NAME)), metavar="NAME")
@click.option("--list", "listing", is_flag=True, help="Say what drills there are.")
@click.option("--writes", type=click.IntRange(min=6), help="How many.  [default: the drill's own number]")
@click.option("--server", type=click.Choice(SERVERS), default="sekmet", show_default=True, help="The FHIR server behind.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the faults and of the extracts.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def drill_command(*, name: str | None, listing: bool, writes: int | None, server: str, seed: int, as_json: bool) -> None:
    """Play a misfortune on a real server; exit code 1 where a promise is broken, counted by reading the EHR."""
    from fhir_writeback_dagster.cli import FAILED, progress
    from fhir_writeback_dagster.sandbox.drills.environment import open_stage
    from fhir_writeback_dagster.sandbox.drills.run import play

    if listing:
        click.echo(_listing(as_json=as_json))
        return
    if name is None:
        raise click.UsageError("which drill? `fhir-writeback drill --list` describes them")
    with open_stage(server, progress) as stage:
        result = play(BY_NAME[name], stage, writes, seed)
    click.echo(json.dumps(result.to_json()) if as_json else result.table())
    if as_json:
        progress(f"{name}: {result.writes / max(result.seconds, 0.001):.0f} writes a second")
    sys.exit(0 if result.held else FAILED)


def _listing(*, as_json: bool) -> str:
    if as_json:
        return json.dumps({drill.name: {"about": drill.about, "promise": drill.promise} for drill in DRILLS})
    width = max(len(drill.name) for drill in DRILLS)
    return "\n".join(f"{drill.name:<{width}}  {drill.about}\n{'':<{width}}  → {drill.promise}" for drill in DRILLS)
