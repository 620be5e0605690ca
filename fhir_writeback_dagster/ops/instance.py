"""Dagster's instance, with two additions.

* Started by hand without our environment it says what is missing and the fix. Without that, ``dagster dev`` in a fresh clone
  shows a traceback that names a variable and nothing else. The two class methods are the hook that ``instance_class`` in
  dagster.yaml offers; Dagster calls them before it resolves any ``env:``.
* Its storages keep their connections. Left alone they log in again for every statement (``NullPool``, dagster-postgres 0.29),
  and a run stores hundreds of events: a SCRAM login costs both sides milliseconds where the statement costs a fraction of one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import dagster as dg
import psycopg2  # type: ignore[import-untyped]
from dagster._config import Field
from dagster._core.instance.ref import InstanceRef
from dagster._core.secrets.env_file import get_env_var_dict
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError

_PLACES = [f"FHIR_WRITEBACK_SOCKET_{layer}" for layer in ("INGEST", "DECIDE", "COMMIT", "AUDIT")]
VARIABLES = ("FHIR_WRITEBACK_DSN_DAGSTER", *_PLACES)

_STATEMENT_MS, _RECYCLE_S, _MOST_CONNECTIONS = 120_000, 3600, 20


class Instance(dg.DagsterInstance):
    """A :class:`dagster.DagsterInstance`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.is_persistent:
            self.optimize_for_webserver(_STATEMENT_MS, _RECYCLE_S, _MOST_CONNECTIONS)
            for storage in (self.run_storage, self.event_log_storage, self.schedule_storage):
                if isinstance(engine := getattr(storage, "_engine", None), Engine):
                    event.listen(engine, "checkout", _still_there)

    @classmethod
    def config_schema(cls) -> Mapping[str, Field]:
        """Nothing is added to the keys of dagster.yaml.

        :raises click.ClickException: Dagster's database is not configured, or the process holds secrets that are not Dagster's;
            its tools print that as one line.
        """
        if told := sorted(_from_env_file()):
            message = (
                f"{Path.cwd()}/.env: Dagster has read it, and holds {', '.join(told[:3])} and what else is for a layer alone "
                "[secrets_in_dagster] — run it as `fhir-writeback exec -- dagster …`"
            )
            raise click.ClickException(message)
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


def _from_env_file() -> set[str]:
    """Secrets that this process has from a `.env` where it was started: Dagster's commands take all that stands in it."""
    written = get_env_var_dict(str(Path.cwd()))
    kept = {*VARIABLES, "FHIR_WRITEBACK_HOME"}
    return {name for name, value in written.items() if value and os.environ.get(name) == value} - kept - _ports(written)


def _ports(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.startswith("FHIR_WRITEBACK_PORT_")}


def _still_there(connection: Any, _record: object, _proxy: object) -> None:
    """Before a kept connection is used: PostgreSQL may have been restarted since. SQLAlchemy then opens another one."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except psycopg2.Error:
        raise DisconnectionError from None
