"""A command of Dagster's beside this project's services: those of a running `up`, or its own for as long as it takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fhir_writeback_dagster.ops import lock
from fhir_writeback_dagster.ops.configuration import Configuration
from fhir_writeback_dagster.ops.database import Progress, open_database
from fhir_writeback_dagster.ops.environment import dagster_environment
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.running import LOCK, running


@contextmanager
def beside(config: Configuration, progress: Progress) -> Iterator[dict[str, str]]:
    """The environment for the command: the user's own without a secret of ours, and where Dagster finds everything."""
    state = StateFolder(config.home)
    published = lock.read(state.path / LOCK)
    if published and "ports" in published:
        with open_database(config, state, progress) as database:
            yield _with_users(dagster_environment(state, database.dsns, published["ports"]))
        return
    with running(config, progress, dagster=False) as everything:
        yield _with_users(everything.services.environment())


def _with_users(ours: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FHIR_WRITEBACK_")}
    # The folder of this interpreter first: `dagster` is found there also where its virtual environment is not active.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return kept | ours | {"PATH": path}
