"""``DAGSTER_HOME`` and Dagster's storage, made ready before anything of Dagster's starts."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops.configuration import Configuration
from fhir_writeback_dagster.ops.environment import storage_environment
from fhir_writeback_dagster.ops.folder import StateFolder, unusable
from fhir_writeback_dagster.ops.process import Child, Program, died
from fhir_writeback_dagster.ops.provision import Dsns
from fhir_writeback_dagster.ops.signals import undisturbed

_SHIPPED = Path(__file__).resolve().parents[2]
_PREPARE_S = 120


def dagster_home(config: Configuration, state: StateFolder) -> Path:
    """``DAGSTER_HOME``, with the project's dagster.yaml and workspace.yaml (those of the home, else those shipped) in it.

    :raises ServiceError: neither has them.
    """
    folder = state.folder("dagster")
    for name in ("dagster.yaml", "workspace.yaml"):
        source = next((place / name for place in (config.home, _SHIPPED) if (place / name).is_file()), None)
        if source is None:
            raise ServiceError("file_missing", f"there is no {name}", where=str(config.home), fix="copy it from the project")
        try:
            shutil.copyfile(source, folder / name)
        except OSError as error:
            raise unusable(folder / name, error) from None
    return folder


def prepare_dagster(config: Configuration, state: StateFolder, dsns: Dsns, tenants: Iterable[str]) -> None:
    """Make or migrate Dagster's storage and set its tenant partitions, in a process of its own.

    :raises ServiceError: it failed; the log has the rest.
    """
    program = Program(
        "Dagster's storage",
        [sys.executable, "-m", "fhir_writeback_dagster.ops.prepare", *tenants],
        storage_environment(state, dsns),
        state.log("Dagster's storage"),
        dagster_home(config, state),
    )
    with undisturbed():
        child = Child(program)
    try:
        if child.wait(_PREPARE_S) != 0:
            raise died(child)
    finally:
        child.stop()
