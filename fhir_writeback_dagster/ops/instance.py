"""Dagster's instance, with one addition: started by hand without our environment it says what is missing and the mend.

Without it, ``dagster dev`` in a fresh clone shows a traceback that names a variable and nothing else. The two class methods
are the hook that ``instance_class`` in dagster.yaml offers; Dagster calls them before it resolves any ``env:``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import click
import dagster as dg
from dagster._config import Field
from dagster._core.instance.ref import InstanceRef
from dagster._serdes import ConfigurableClassData

_PLACES = [f"FHIR_WRITEBACK_{what}_{layer}" for layer in ("INGEST", "DECIDE", "COMMIT", "AUDIT") for what in ("HOST", "PORT")]
VARIABLES = ("FHIR_WRITEBACK_DSN_DAGSTER", *_PLACES)


class Instance(dg.DagsterInstance):
    """A :class:`dagster.DagsterInstance`."""

    @classmethod
    def config_schema(cls) -> Mapping[str, Field]:
        """Nothing is added to the keys of dagster.yaml.

        :raises click.ClickException: Dagster's database is not configured; its tools print that as one line.
        """
        if not os.environ.get(VARIABLES[0]):
            missing = ", ".join(name for name in VARIABLES if not os.environ.get(name))
            message = (
                f"dagster.yaml and workspace.yaml: not set: {missing} [not_configured] — run it as "
                "`fhir-writeback exec -- dagster …`, which starts and sets what is missing, "
                "or copy .env.example to .env and fill it in"
            )
            raise click.ClickException(message)
        return {}

    @classmethod
    def config_defaults(cls, base_dir: str) -> Mapping[str, ConfigurableClassData | None]:
        return InstanceRef.config_defaults(base_dir)
