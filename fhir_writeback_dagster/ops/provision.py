"""Databases, roles and logins of an embedded PostgreSQL; in production an administrator does the same (docs)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import Connection, sql

from fhir_writeback_dagster.config.settings import LAYERS
from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.ports import HOST
from fhir_writeback_dagster.store.db import connect
from fhir_writeback_dagster.store.migrate import migrate

DATABASE = "fhir_writeback"
DAGSTER = "dagster"
MIGRATOR = "fw_migrator"


@dataclass(frozen=True, slots=True, repr=False)
class Dsns:
    """A DSN for each login: the layers' (``ingest`` … ``status``), ``dagster``, and ``migrator`` where one is configured. Never
    printed."""

    by_name: dict[str, str]

    def of(self, name: str) -> str:
        """:raises ServiceError: nothing is configured for this login."""
        try:
            return self.by_name[name]
        except KeyError:
            variable = f"FHIR_WRITEBACK_DSN_{name.upper()}"
            raise ServiceError(
                "no_dsn", f"no database login for {name}", where=variable, fix=f"set {variable} in the environment or .env"
            ) from None


def provision(superuser: str, port: int, state: StateFolder) -> Dsns:
    """Make what is missing and migrate; idempotent. ``superuser`` is a DSN that takes a database's name at its end.

    The migrator has its rights, and can log in, only while this migrates: nothing that runs afterwards needs it.

    :raises ServiceError: the server refuses, or a migration fails.
    """
    names = [MIGRATOR, DAGSTER, *(login(layer) for layer in LAYERS)]
    passwords = state.passwords(*names)
    try:
        with connect(f"{superuser}postgres", application="fhir_writeback_provision") as server:
            _role(server, MIGRATOR, "LOGIN CREATEROLE BYPASSRLS", passwords[MIGRATOR])
            _role(server, DAGSTER, "LOGIN", passwords[DAGSTER])
            _database(server, DATABASE, MIGRATOR)
            _database(server, DAGSTER, DAGSTER)
            migrate(_dsn(port, MIGRATOR, passwords[MIGRATOR], DATABASE))
            server.execute(
                sql.SQL("ALTER ROLE {} NOLOGIN NOCREATEROLE NOBYPASSRLS PASSWORD NULL").format(sql.Identifier(MIGRATOR))
            )
            for layer in LAYERS:
                _role(server, login(layer), "LOGIN", passwords[login(layer)])
                server.execute(
                    sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(DATABASE), sql.Identifier(login(layer)))
                )
    except psycopg.Error as error:
        raise ServiceError(
            "provision_failed",
            f"PostgreSQL refused the set-up (sqlstate {error.sqlstate})",
            fix=f"the log has the rest: {state.log('PostgreSQL')}",
        ) from None
    return known_dsns(port, state)


def known_dsns(port: int, state: StateFolder) -> Dsns:
    """The logins of a server that :func:`provision` was done on."""
    passwords = state.passwords(DAGSTER, *(login(layer) for layer in LAYERS))
    dsns: dict[str, str] = {layer: _dsn(port, login(layer), passwords[login(layer)], DATABASE) for layer in LAYERS}
    dsns["dagster"] = _dsn(port, DAGSTER, passwords[DAGSTER], DAGSTER)
    return Dsns(dsns)


def login(layer: str) -> str:
    return f"fw_{layer}_login"


def _dsn(port: int, user: str, password: str, database: str) -> str:
    return f"postgresql://{user}:{password}@{HOST}:{port}/{database}"


def _role(server: Connection[Any], name: str, options: str, password: str) -> None:
    """Make or alter a login. The verifier is made here: the server never sees, and so cannot log, the password."""
    verifier = server.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
    found = server.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone()
    server.execute(
        sql.SQL("{} ROLE {} {} PASSWORD {}").format(
            sql.SQL("ALTER" if found else "CREATE"),
            sql.Identifier(name),
            sql.SQL(options),
            sql.Literal(verifier),
        )
    )


def _database(server: Connection[Any], name: str, owner: str) -> None:
    if not server.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
        server.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(owner)))
    server.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
