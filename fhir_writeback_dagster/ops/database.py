"""The database that this project works with: the user's own, or the embedded one, started here or by another command."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fhir_writeback_dagster.errors import ConfigError, ServiceError
from fhir_writeback_dagster.ops import lock
from fhir_writeback_dagster.ops.configuration import Configuration
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.postgres import LOCK, Postgres
from fhir_writeback_dagster.ops.provision import Dsns, known_dsns, provision
from fhir_writeback_dagster.store.db import connect
from fhir_writeback_dagster.store.migrate import migrate

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class InstallationDatabase:
    """An open database; ``postgres`` is the embedded server if this command runs it."""

    dsns: Dsns
    postgres: Postgres | None = None


@contextmanager
def open_database(
    config: Configuration, state: StateFolder, progress: Progress, *, own: bool = False, durable: bool = True
) -> Iterator[InstallationDatabase]:
    """Migrated and answering while the block runs.

    ``own``: this command keeps the embedded server for long, so one that another command started will not do.

    :raises ServiceError: it does not answer, or cannot be started; see :class:`Postgres` and `migrate`.
    """
    configured = config.dsns
    if configured:
        if "migrator" in configured.by_name:
            progress("migrating the database")
            migrate(configured.of("migrator"))
        connect(configured.of("status")).close()
        yield InstallationDatabase(configured)
        return
    running = None if own else attach(state)
    if running:
        yield InstallationDatabase(running)
        return
    progress("starting PostgreSQL")
    with Postgres(state, port=config.ports["postgres"], durable=durable) as postgres:
        dsns = provision(postgres.superuser, postgres.port, state)
        postgres.publish()
        yield InstallationDatabase(dsns, postgres)


def migrate_before_code(config: Configuration) -> None:
    """Apply what the version that runs now survives, so that this one can be started beside it.

    :raises ConfigError: the database is the embedded one, which only one version uses at a time.
    :raises ServiceError: no login of the migrator is configured, or see `migrate`.
    """
    configured = config.dsns
    if configured is None:
        raise ConfigError(
            "embedded_database",
            "the embedded database has one user, which migrates it when it starts",
            fix="end the former version and start this one",
        )
    migrate(configured.of("migrator"), before_code=True)


def attach(state: StateFolder) -> Dsns | None:
    """The logins of the embedded server that another command keeps running now; None if none does.

    :raises ServiceError: another command began to start it a minute ago and is not done.
    """
    path = state.path / LOCK
    deadline = time.monotonic() + 60
    while (published := lock.read(path)) is not None:
        if "port" in published:
            return known_dsns(int(published["port"]), state)
        if time.monotonic() > deadline:
            raise ServiceError(
                "not_ready", "another command has been starting PostgreSQL for a minute", where=str(path), fix="try again"
            )
        time.sleep(0.1)
    return None


def register(dsns: Dsns, tenants: Iterable[str]) -> None:
    """Make the database roles of the tenants that have none yet."""
    with connect(dsns.of("ingest"), application="fhir_writeback_register") as connection:
        connection.execute("SELECT ops.register_tenant(t) FROM unnest(%s::text[]) AS t", (list(tenants),))
