"""``fhir-writeback``: results on stdout, progress on stderr; whatever goes wrong is one line with place and fix.

Exit codes: 0 done, 1 done but something does not add up or failed for a tenant, 2 it could not be done, 128+n ended by
signal n before it was done.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec

import click

from fhir_writeback_dagster.config import settings
from fhir_writeback_dagster.errors import ConfigError, WritebackError, describe
from fhir_writeback_dagster.ops.signals import Stopped, stoppable

if TYPE_CHECKING:
    from fhir_writeback_dagster.config.settings import Layer
    from fhir_writeback_dagster.ops.configuration import Configuration
    from fhir_writeback_dagster.orchestration.run_context import RunContext

P = ParamSpec("P")
FAILED, IMPOSSIBLE, SIGNALLED = 1, 2, 128


def progress(text: str) -> None:
    """One line on stderr, with the time of day."""
    click.echo(f"{time.strftime('%H:%M:%S')}  {text}", err=True)


def command(function: Callable[P, int]) -> Callable[P, None]:
    """A command whose return value is the exit code."""

    @wraps(function)
    def ending(*args: P.args, **kwargs: P.kwargs) -> None:
        sys.exit(function(*args, **kwargs))

    return ending


@contextmanager
def framed() -> Iterator[None]:
    """Every command's frame: no error leaves as a traceback."""
    code = IMPOSSIBLE
    try:
        with stoppable():
            yield
        return
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise  # click's own to tell of, or, where nobody listens any more, not to
    except WritebackError as error:
        click.echo(f"error: {error}", err=True)
    except Stopped as stopped:
        click.echo(f"ended by {stopped}", err=True)
        code = SIGNALLED + stopped.number
    except Exception as error:  # noqa: BLE001 - a foreign text may quote a patient's values
        click.echo(f"error: {describe(error)}", err=True)
    sys.exit(code)


def project() -> Configuration:
    """The configuration of the project that this command is for.

    :raises ConfigError: the folder is none, or its `.env` is wrong.
    """
    from fhir_writeback_dagster.ops.configuration import load_configuration

    home = settings.home()
    if not any((home / name).is_dir() for name in ("tenants", "mappings")):
        raise ConfigError(
            "no_project",
            "there is neither a tenants/ nor a mappings/ folder",
            where=str(home),
            fix=f"go to your project's folder, or set {settings.HOME}",
        )
    return load_configuration(home)


@contextmanager
def open_runs(layer: Layer, tenant: str | None) -> Iterator[Iterator[RunContext]]:
    """The :data:`~fhir_writeback_dagster.orchestration.run_context.OpenRuns` of the project that this command is for."""
    from fhir_writeback_dagster.config.tenants import load_tenant, tenant_ids
    from fhir_writeback_dagster.ops.database import open_database, register
    from fhir_writeback_dagster.ops.environment import holding_secrets
    from fhir_writeback_dagster.ops.folder import StateFolder
    from fhir_writeback_dagster.orchestration.run_context import open_run

    def places() -> Iterator[RunContext]:
        for name in names:
            register(database.dsns, [name])
            with open_run(settings.Settings(config.home, layer, database.dsns.of(layer)), name, "command") as run:
                yield run

    config = project()
    names = [load_tenant(config.home / "tenants", tenant).tenant] if tenant else tenant_ids(config.home / "tenants")
    state = StateFolder(config.home)
    with holding_secrets(config, state, layer, config.tenants()[0]), open_database(config, state, progress) as database:
        yield places()


class _Commands(click.Group):
    """With the layers' own commands, each imported only when it is asked for: its place, or a group of such with its help."""

    def __init__(self, *args: Any, members: Mapping[str, Any] = MappingProxyType({}), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._members = members

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self._members])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = self._members.get(cmd_name)
        if place is None:
            return super().get_command(ctx, cmd_name)
        if isinstance(place, tuple):
            help_text, members = place
            return _Commands(cmd_name, members=members, help=help_text)
        module, attribute = place.split(":")
        found: click.Command = getattr(import_module(f"fhir_writeback_dagster.{module}"), attribute)
        return found


class _Main(_Commands):
    def invoke(self, ctx: click.Context) -> Any:
        with framed():
            return super().invoke(ctx)


_OF_LAYERS = {
    "expectations": ("What is expected of canonical records.", {"docs": "ingest.quality.data_docs:docs_command"}),
    "drill": "sandbox.drills.command:drill_command",
    "mapping": (
        "Mappings: from canonical records to FHIR.",
        {
            "diff": "decide.commands.mapping_diff:mapping_diff_command",
            "dry-run": "commit.commands.preview_commands:dry_run_command",
        },
    ),
    "match": (
        "Matching of rows to patients.",
        {"evaluate": "decide.matching.tuning.evaluate:evaluate_command", "learn": "decide.matching.tuning.learn:learn_command"},
    ),
    "mode": (
        "What may be written: off, shadow, review_all, sampled, auto.",
        {
            "replay": "decide.commands.mode:replay_command",
            "set": "decide.commands.mode:set_command",
            "show": "decide.commands.mode:show_command",
        },
    ),
    "policy": (
        "Policies: who may write what.",
        {"diff": "decide.commands.policy_diff:policy_diff_command", "test": "rules.policy.cases:policy_test_command"},
    ),
    "quarantine": (
        "What could not be written, and why.",
        {"release": "commit.commands.quarantine_commands:release_command"},
    ),
    "source": (
        "Sources: from files as they come to canonical records.",
        {"check": "ingest.commands.check:check_command", "sketch": "ingest.commands.sketch:sketch_command"},
    ),
    "target": (
        "The EHRs that are written to: how they stand, and whether anything may be sent.",
        {
            "drain": "commit.commands.target_commands:drain_command",
            "keys": "commit.commands.probe_commands:keys_command",
            "pause": "commit.commands.target_commands:pause_command",
            "probe": "commit.commands.probe_commands:probe_command",
            "release": "commit.commands.target_commands:release_command",
            "resume": "commit.commands.target_commands:resume_command",
            "show": "commit.commands.target_commands:show_command",
            "validate": "commit.commands.validate_command:validate_command",
        },
    ),
    "shadow": "commit.commands.preview_commands:shadow_command",
    "validate": "decide.commands.validate_files:validate_command",
}


@click.group(cls=_Main, members=_OF_LAYERS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fhir-writeback-dagster")
@click.pass_context
def main(context: click.Context) -> None:
    """Governed write-back of scraped clinical extracts to EHRs over FHIR R4."""
    from fhir_writeback_dagster.orchestration.logs import configure

    configure()
    context.obj = open_runs


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--keep", is_flag=True, help="Stay up until Ctrl-C when it is done.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Work there and leave it. Default: a new one.")
@click.option("--patience", type=click.FloatRange(min=0.1), default=15, show_default=True, help="Minutes a part of it may take.")
@command
def demo(*, as_json: bool, keep: bool, folder: Path | None, patience: float) -> int:
    """Two hospitals' extracts into a real FHIR server, and a check that all adds up."""
    from fhir_writeback_dagster.sandbox.demo import run_demo

    def report(result: dict[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps(result))

    result = run_demo(progress, keep=keep, folder=folder, patience_s=patience * 60, report=report)
    return 0 if result["ok"] else FAILED


@main.command()
@command
def up() -> int:
    """Run everything on your own configuration until Ctrl-C: database, code locations, Dagster's daemon and page."""
    from fhir_writeback_dagster.ops.running import running

    with running(project(), progress) as everything:
        progress(f"Dagster: {everything.link()} (works once; `fhir-writeback status` prints another)")
        progress(f"logs: {everything.state.path / 'logs'}")
        progress("up; Ctrl-C ends it")
        try:
            while True:
                everything.tend()
                time.sleep(1)
        except Stopped:
            progress("ending")
    return 0


def _source_faults(config: Configuration, only: str | None = None) -> list[str]:
    """What is wrong with the tenants' sources, a line each."""
    from fhir_writeback_dagster.ingest.source_faults import source_faults

    tenants = [tenant for tenant in config.tenants()[0] if only in {None, tenant.tenant}]
    return [line for tenant in tenants for line in source_faults(config.home, tenant)]


@main.command()
@click.option("--tenant", help="Only this tenant.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@command
def run(*, tenant: str | None, as_json: bool) -> int:
    """One pass over all that waits, without the daemon: mirror, ingest, decide, commit."""
    from fhir_writeback_dagster.ops.database import open_database
    from fhir_writeback_dagster.ops.folder import StateFolder
    from fhir_writeback_dagster.ops.passes import one_pass
    from fhir_writeback_dagster.ops.report import table

    config = project()
    state = StateFolder(config.home)
    with open_database(config, state, progress) as database:
        report = one_pass(config, state, database.dsns, progress, tenant)
    report.failures += _source_faults(config, tenant)
    if as_json:
        tenants = {name: of_tenant.to_json() for name, of_tenant in report.tenants.items()}
        click.echo(json.dumps({"ok": report.ok, "tenants": tenants, "failures": report.failures}))
    else:
        click.echo(table(report.tenants))
        for failure in report.failures:
            click.echo(f"error: {failure}", err=True)
    return 0 if report.ok else FAILED


def _with_tenants(config: Configuration) -> Configuration:
    """``config``; where it has no tenant, but a demo of this user stays up, the demo's."""
    from fhir_writeback_dagster.ops.configuration import load_configuration
    from fhir_writeback_dagster.sandbox.demo import running_demo

    good, bad = config.tenants()
    if good or bad or (demo_home := running_demo()) is None:
        return config
    progress(f"no tenant here; this is the demo that runs in {demo_home}")
    return load_configuration(demo_home)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@command
def status(*, as_json: bool) -> int:
    """Where every row stands, by tenant, and how each EHR does. Where no tenant is, but a demo stays up: the demo's."""
    from fhir_writeback_dagster.ops.database import open_database
    from fhir_writeback_dagster.ops.folder import StateFolder
    from fhir_writeback_dagster.ops.report import read_report, table
    from fhir_writeback_dagster.ops.running import link_of_running

    config = _with_tenants(project())
    state = StateFolder(config.home)
    with open_database(config, state, progress) as database:
        reports = read_report(database.dsns.of("status"))
    failures = [*map(str, config.tenants()[1]), *_source_faults(config)]
    ok = not failures and all(report.adds_up for report in reports.values())
    if as_json:
        tenants = {name: report.to_json() for name, report in reports.items()}
        click.echo(json.dumps({"ok": ok, "tenants": tenants, "failures": failures}))
    else:
        click.echo(table(reports))
        for failure in failures:
            click.echo(f"error: {failure}", err=True)
        if link := link_of_running(state):
            click.echo(f"\nDagster: {link} (works once)")
    return 0 if ok else FAILED


@main.command()
@click.option("--before-code", is_flag=True, help="Only what the former version survives, which may go on running.")
@command
def migrate(*, before_code: bool) -> int:
    """Bring the database and Dagster's storage to this version. `up` and `run` do it too where they may."""
    from fhir_writeback_dagster.ops.dagsterhome import prepare_dagster
    from fhir_writeback_dagster.ops.database import migrate_before_code, open_database, register
    from fhir_writeback_dagster.ops.folder import StateFolder

    config = project()
    if before_code:
        migrate_before_code(config)
        progress("the database is ready for this version; migrate again when the former one has ended")
        return 0
    state = StateFolder(config.home)
    with open_database(config, state, progress) as database:
        tenants = [tenant.tenant for tenant in config.tenants()[0]]
        register(database.dsns, tenants)
        prepare_dagster(config, state, database.dsns, tenants)
    progress("the database and Dagster's storage are of this version")
    return 0


@main.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED)
@command
def execute(*, arguments: tuple[str, ...]) -> int:
    """Run a command of Dagster's with the database and the code locations up: exec -- dagster definitions validate."""
    from fhir_writeback_dagster.ops.dagster_exec import exec_environment, run_dagster_tool

    with exec_environment(project(), progress) as environment:
        return run_dagster_tool(arguments, environment)


if __name__ == "__main__":
    main()
