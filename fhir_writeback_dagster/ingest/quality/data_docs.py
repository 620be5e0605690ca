"""``fhir-writeback expectations docs``: a page of what is expected of each kind, and how many rows failed it; without a value.

Great Expectations' own pages load a dozen scripts from other hosts, which a hospital's network need not allow; this one loads
nothing. Results are counts by check, as the database has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path

import click

from fhir_writeback_dagster.config import settings
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.ingest.quality.expectations import Suite, load_suites
from fhir_writeback_dagster.orchestration.run_context import OpenRuns

_FAILED = "SELECT reason, count(*) FROM canonical.row WHERE tenant = %s AND reason LIKE 'gx\\_%%' GROUP BY reason"
_STYLE = "body{font:15px sans-serif;margin:2em}table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.3em .6em}"
_HEAD = ("check", "severity", "what is expected", "rule")


def page(suites: Mapping[str, Suite], failed: Mapping[str, int] | None) -> str:
    """HTML of all suites; ``failed`` has the rows that were quarantined by each check's name, None where nobody was asked."""
    parts = [f"<!DOCTYPE html><html lang=en><meta charset=utf-8><title>Expectations</title><style>{_STYLE}</style>"]
    for kind, suite in suites.items():
        parts.append(f"<h2>{escape(kind)}</h2><p>version {suite.sha256.hex()[:12]}</p><table>")
        heads = _HEAD if failed is None else (*_HEAD, "rows kept aside")
        parts.append("<tr>" + "".join(f"<th>{head}" for head in heads) + "</tr>")
        for one in suite.expectations:
            rule = f"{one.type} {json.dumps(one.kwargs, sort_keys=True)}"
            cells = [f"{kind}_{one.check}", one.severity, one.description, rule]
            if failed is not None:
                cells.append(str(failed.get(f"{kind}_{one.check}", 0)))
            parts.append("<tr>" + "".join(f"<td>{escape(cell)}" for cell in cells) + "</tr>")
        parts.append("</table>")
    return "\n".join(parts) + "\n"


@click.command("docs")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--tenant", help="Count the rows of this tenant that each check kept aside.")
@click.pass_obj
def docs_command(open_runs: OpenRuns, *, file: Path, tenant: str | None) -> None:
    """Write an HTML page of all expectations to FILE. No value of a patient is in it."""
    suites = load_suites(settings.home() / "expectations")
    failed: dict[str, int] | None = None
    if tenant is not None:
        with open_runs("ingest", tenant) as places:
            for run in places:
                with run.store.tenant(run.id) as connection:
                    counts = connection.execute(_FAILED, (run.id,)).fetchall()
                failed = {reason.removeprefix("gx_"): number for reason, number in counts}
    try:
        file.write_text(page(suites, failed), encoding="utf-8")
    except OSError as error:
        fix = "name a file in a folder of yours"
        raise ConfigError("not_writable", type(error).__name__, where=str(file), fix=fix) from None
    click.echo(f"{sum(len(suite.expectations) for suite in suites.values())} expectations of {len(suites)} kinds: {file}")
