"""Connections: a layer's own login, and one tenant at a time by ``SET LOCAL ROLE`` for the length of a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.config.settings import Layer
from fhir_writeback_dagster.config.tenants import TENANT_ID
from fhir_writeback_dagster.errors import LaneHeld, ServiceError
from fhir_writeback_dagster.store import advisory_locks

Row = tuple[Any, ...]


def connect(dsn: str, *, application: str = "fhir_writeback") -> Connection[TupleRow]:
    """:raises ServiceError: the database does not answer or refuses the login; the text never holds the DSN."""
    try:
        return psycopg.connect(dsn, application_name=application, autocommit=True)
    except psycopg.OperationalError as error:
        # libpq gives a failed connection no sqlstate.
        reason = "refuses this login" if "FATAL" in str(error) else "does not answer"
        raise ServiceError("database_unreachable", f"PostgreSQL {reason}", fix="is it up, and is the DSN this layer's?") from None


class Store:
    """A layer's database: ``with store.tenant(t) as connection`` is one transaction that sees one tenant."""

    def __init__(self, dsn: str, layer: Layer) -> None:
        self.layer: Layer = layer
        self._dsn = dsn
        self._connection: Connection[TupleRow] | None = None

    def connection(self) -> Connection[TupleRow]:
        """The shared connection, opened anew when the last one broke. It is in autocommit and has no tenant."""
        if self._connection is None or self._connection.closed or self._connection.broken:
            self._connection = connect(self._dsn, application=f"fhir_writeback_{self.layer}")
        return self._connection

    @contextmanager
    def tenant(self, tenant: str) -> Iterator[Connection[TupleRow]]:
        """One transaction as the (layer, tenant) role; committed when the block ends without an error.

        :raises ServiceError: the database went away, or the tenant has no roles yet.
        """
        connection = self.connection()
        try:
            with connection.transaction():
                set_tenant(connection, self.layer, tenant)
                yield connection
        except psycopg.errors.InvalidParameterValue:
            raise ServiceError(
                "tenant_not_registered",
                f"the tenant {tenant} has no database roles",
                fix="`fhir-writeback run` registers it",
            ) from None
        except psycopg.OperationalError as error:
            raise ServiceError(
                "database_lost",
                f"PostgreSQL went away (sqlstate {error.sqlstate})",
                fix="nothing is lost; the next run goes on",
            ) from None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def set_tenant(connection: Connection[Any], layer: Layer, tenant: str) -> None:
    """Take the (layer, tenant) role until the transaction ends."""
    if not TENANT_ID.fullmatch(tenant):
        raise ServiceError("bad_tenant_id", "not a tenant id")
    connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(f"fw_{layer}__{tenant}")))


def lane_holder(connection: Connection[Any], lane_name: str, tenant: str) -> str | None:
    """The run id that holds the (lane, tenant), as any login may see it; None: nobody does."""
    application = advisory_locks.holder(connection, _lane_number(lane_name, tenant))
    return application.rsplit(" ", 1)[-1] if application else None


def _lane_number(lane_name: str, tenant: str) -> int:
    return advisory_locks.number_of("lane", lane_name, tenant)


class HeldLane:
    """A (lane, tenant) that is ours as long as :meth:`keep` says so: see :func:`lane`."""

    def __init__(self, dsn: str, lane_name: str, tenant: str, holder: str) -> None:
        self._dsn, self._name, self._tenant, self._holder = dsn, lane_name, tenant, holder
        self._number = _lane_number(lane_name, tenant)
        self._connection = self._take()

    def keep(self) -> None:
        """Take it again where the server has forgotten it: it was restarted, or ended the session.

        :raises LaneHeld: another run was faster; this one has to end.
        :raises ServiceError: the database does not answer.
        """
        try:
            self._connection.execute("SELECT 1")
        except psycopg.OperationalError:
            self._connection.close()
            self._connection = self._take()

    def release(self) -> None:
        """Let go, before the connection closes: the server may take a moment to see that, and the next run comes at once."""
        with suppress(psycopg.Error):
            advisory_locks.unlock_session(self._connection, self._number)
        self._connection.close()

    def _take(self) -> Connection[TupleRow]:
        # The name stays under Postgres' 63 bytes, or the run id at its end would be cut: so no tenant in it.
        connection = connect(self._dsn, application=f"fw {self._name} {self._holder}"[:63])
        try:
            if advisory_locks.try_lock_session(connection, self._number):
                return connection
            other = lane_holder(connection, self._name, self._tenant) or "another session"
        except psycopg.OperationalError as error:
            connection.close()
            raise ServiceError("database_lost", f"PostgreSQL went away (sqlstate {error.sqlstate})") from None
        connection.close()
        raise LaneHeld(self._name, self._tenant, other)


@contextmanager
def lane(dsn: str, lane_name: str, tenant: str, holder: str) -> Iterator[HeldLane]:
    """Hold the (lane, tenant) for the block: a session-level advisory lock on a connection of its own.

    It goes with the process, so a run that dies leaves nothing behind. ``holder`` (a run id) is what a second comer is told.

    :raises LaneHeld: another run holds it; its ``holder`` says which.
    """
    held = HeldLane(dsn, lane_name, tenant, holder)
    try:
        yield held
    finally:
        held.release()


def copy_rows(
    connection: Connection[Any], table: str, columns: Sequence[str], rows: Iterable[Row], *, replace_by: Sequence[str] = ()
) -> int:
    """COPY ``rows`` into ``table`` by way of a temp table (COPY into a table with row-level security is refused).

    A row that conflicts is left as it is, or, where ``replace_by`` names the key, gets the new values. No key may stand
    twice in ``rows`` then. Returns how many rows were inserted or replaced.
    """
    schema, name = table.split(".")
    target, temp = sql.Identifier(schema, name), sql.Identifier(f"copy_{schema}_{name}")
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    connection.execute(
        sql.SQL("CREATE TEMP TABLE IF NOT EXISTS {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA").format(temp, names, target)
    )
    connection.execute(sql.SQL("TRUNCATE {}").format(temp))
    with connection.cursor() as cursor, cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(temp, names)) as copy:
        for row in rows:
            copy.write_row(row)
    conflict: sql.Composable = sql.SQL("DO NOTHING")
    if replace_by:
        conflict = sql.SQL("({}) DO UPDATE SET {}").format(
            sql.SQL(", ").join(map(sql.Identifier, replace_by)),
            sql.SQL(", ").join(
                sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in columns if name not in replace_by
            ),
        )
    inserted = connection.execute(
        sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT {}").format(target, names, names, temp, conflict)
    )
    return inserted.rowcount


def record_event(
    connection: Connection[Any], event: str, subjects: Sequence[str], details: Sequence[dict[str, Any]] | None = None
) -> None:
    """Insert audit events, one a subject, in the caller's transaction; ids, codes, hashes and counts only."""
    if subjects:
        # As text: psycopg's own JSON arrays cost 150 µs an event, these 5.
        told = None if details is None else [canonicaljson.encode(detail).decode() for detail in details]
        connection.execute("SELECT audit.record(%s, %s, %s::text[]::jsonb[])", (event, list(subjects), told))
