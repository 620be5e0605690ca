"""Numbered plain SQL, applied once each, in order, under one advisory lock; a changed file that was applied is refused."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import psycopg

from fhir_writeback_dagster.errors import ConfigError, ServiceError
from fhir_writeback_dagster.store.db import connect

FOLDER = Path(__file__).parent / "migrations"
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_LOCK = 0x66777264  # any constant: one migration at a time in a database


def migrations(folder: Path = FOLDER) -> list[tuple[int, Path]]:
    """Numbers and files in order.

    :raises ConfigError: a number is missing or stands twice.
    """
    found = sorted((int(m[1]), path) for path in folder.glob("*.sql") if (m := _NAME.fullmatch(path.name)))
    if [number for number, _ in found] != list(range(1, len(found) + 1)):
        raise ConfigError("bad_migrations", "numbers must run 1, 2, 3 …", where=str(folder), fix="rename the files")
    return found


def migrate(dsn: str, folder: Path = FOLDER) -> int:
    """Bring the database to the newest version as the migrator; returns how many migrations were applied.

    :raises ServiceError: a migration fails, or an applied one was changed since.
    """
    applied = 0
    with connect(dsn, application="fhir_writeback_migrate") as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS public.fhir_writeback_migration "
            "(number int PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, "
            "applied_at timestamptz NOT NULL DEFAULT now())"
        )
        done: dict[int, str] = dict(connection.execute("SELECT number, sha256 FROM public.fhir_writeback_migration").fetchall())
        for number, path in migrations(folder):
            text = path.read_bytes()
            digest = hashlib.sha256(text).hexdigest()
            if number in done:
                if done[number] != digest:
                    raise ServiceError(
                        "migration_changed", "was applied with other content", where=path.name, fix="add a new file"
                    )
                continue
            try:
                with connection.transaction():
                    connection.execute(text)
                    connection.execute(
                        "INSERT INTO public.fhir_writeback_migration (number, name, sha256) VALUES (%s, %s, %s)",
                        (number, path.name, digest),
                    )
            except psycopg.Error as error:
                problem = error.diag.message_primary or "failed"
                raise ServiceError("migration_failed", f"{problem} (sqlstate {error.sqlstate})", where=path.name) from None
            applied += 1
    return applied
