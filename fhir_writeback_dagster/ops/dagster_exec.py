"""A command of Dagster's beside this project's services: those of a running `up`, or its own for as long as it takes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops import lock
from fhir_writeback_dagster.ops.configuration import Configuration
from fhir_writeback_dagster.ops.database import Progress, open_database
from fhir_writeback_dagster.ops.environment import dagster_environment, needs
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.running import LOCK, running
from fhir_writeback_dagster.ops.signals import Stopped

_GRACE_S = 30


@contextmanager
def exec_environment(config: Configuration, progress: Progress) -> Iterator[dict[str, str]]:
    """The environment for the command: the user's own without a secret of ours, and where Dagster finds everything."""
    state = StateFolder(config.home)
    published = lock.read(state.path / LOCK)
    if published and published.get("up"):
        with open_database(config, state, progress) as database:
            yield _with_users(config, dagster_environment(state, database.dsns))
        return
    with running(config, progress, dagster=False) as everything:
        yield _with_users(config, everything.services.environment())


def run_dagster_tool(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command in this terminal to its end; its exit code.

    It works in ``DAGSTER_HOME``: Dagster's commands take every variable of a `.env` where they are started, and the project's
    has the keys of all layers. Its `workspace.yaml` is there too.

    :raises ServiceError: there is no such command.
    """
    try:
        process = subprocess.Popen(arguments, env=environment, cwd=environment["DAGSTER_HOME"])  # noqa: S603 - the user's own command
    except OSError as error:
        raise ServiceError(
            "command_missing", error.strerror or type(error).__name__, where=arguments[0], fix="is it installed?"
        ) from None
    try:
        return process.wait()
    except Stopped as stopped:
        # Ctrl-C went to the command too: the terminal sends it to both. It has children of its own to end, so it gets time.
        if stopped.number != signal.SIGINT:
            process.send_signal(stopped.number)
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        raise


def _with_users(config: Configuration, ours: dict[str, str]) -> dict[str, str]:
    secret = {need.variable for tenant in config.tenants()[0] for need in needs(tenant)} | set(config.written)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FHIR_WRITEBACK_") and name not in secret}
    # The folder of this interpreter first: `dagster` is found there also where its virtual environment is not active.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return kept | ours | {"PATH": path}
