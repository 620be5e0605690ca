"""``fhir-writeback shadow`` and ``mapping dry-run``: what would have been written, and how, without sending it.

``--values`` shows what is kept back otherwise; who asked for it is audited with each candidate that was shown.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import click

from fhir_writeback_dagster.canonical import KINDS
from fhir_writeback_dagster.commit.commands.preview import Preview, preview
from fhir_writeback_dagster.config.user import current_user
from fhir_writeback_dagster.orchestration.run_context import OpenRuns, RunContext
from fhir_writeback_dagster.store.db import record_event

_SHADOWED = ("not_written",)
_NOT_SENT = ("not_written", "in_review", "approved")


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--values", is_flag=True, help="Patients' values too; audited, with who asked."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object a tenant."),
        click.option("--kind", type=click.Choice(KINDS), help="Only this kind. Default: all."),
        click.option("--last", "count", type=click.IntRange(1), default=100, show_default=True, help="How many, newest first."),
        click.option("--tenant", help="Only this tenant. Default: all, each by itself."),
    ):
        command = option(command)
    return command


@click.command("shadow")
@_options
@click.pass_obj
def shadow_command(open_runs: OpenRuns, *, tenant: str | None, count: int, kind: str | None, as_json: bool, values: bool) -> None:  # noqa: PLR0913 - one parameter an option
    """What `off` and `shadow` held back: what would have been written, and how it differs from the chart as it is now."""
    _show(open_runs, _SHADOWED, _compared, tenant, count, kind, as_json=as_json, values=values)


@click.command("dry-run")
@_options
@click.pass_obj
def dry_run_command(  # noqa: PLR0913 - one parameter an option
    open_runs: OpenRuns, *, tenant: str | None, count: int, kind: str | None, as_json: bool, values: bool
) -> None:
    """The requests that the newest unsent candidates would become, planned against the EHR as it is now. Nothing is sent."""
    _show(open_runs, _NOT_SENT, _request, tenant, count, kind, as_json=as_json, values=values)


def _show(  # noqa: PLR0913, PLR0917 - one parameter an option
    open_runs: OpenRuns,
    states: Sequence[str],
    line: Callable[[Preview], str],
    tenant: str | None,
    count: int,
    kind: str | None,
    *,
    as_json: bool,
    values: bool,
) -> None:
    with open_runs("commit", tenant) as places:
        for run in places:
            previews = preview(run, states, count, kind)
            if values:
                _audit(run, previews)
            actions = dict(Counter(one.action for one in previews))
            if as_json:
                told = [one.to_json(values=values) for one in previews]
                click.echo(json.dumps({"tenant": run.id, "candidates": len(previews), "actions": actions, "previews": told}))
                continue
            by_action = ", ".join(f"{number} {action}" for action, number in actions.items())
            click.echo(f"{run.id}: {len(previews)} candidates{': ' if by_action else ''}{by_action}")
            for one in previews:
                click.echo(f"  {line(one)}")
                if values:
                    click.echo(f"    {json.dumps(one.to_json(values=True))}")


def _compared(one: Preview) -> str:
    paths = ", ".join(f"{op['op']} {op['path']}" for op in one.differs)
    why = f" ({one.reason})" if one.reason else ""
    return f"{one.candidate_id} {one.action} {one.resource_type}{why}{': ' if paths else ''}{paths}"


def _request(one: Preview) -> str:
    if one.plan is None:
        return f"{one.candidate_id} {one.action} {one.resource_type}{f' ({one.reason})' if one.reason else ''}"
    headers = "; ".join(f"{name}: {value}" for name, value in one.plan.headers.items())
    return f"{one.candidate_id} {one.plan.method} {one.plan.path} ({len(one.plan.body)} bytes) {headers}"


def _audit(run: RunContext, previews: Sequence[Preview]) -> None:
    with run.store.tenant(run.id) as connection:
        subjects = [str(one.candidate_id) for one in previews]
        record_event(connection, "candidate.values_shown", subjects, [{"by": current_user()}] * len(subjects))
