"""The structure of the database: a baseline, numbered migrations after it, and functions that are replaced each time.

``schema/`` is the baseline, a file for each PostgreSQL schema: what migrations 1 to :data:`BASELINE` made. An empty database
gets it at once. ``migrations/`` are numbered from there on; each is applied once, in order, and refused if its text was
changed afterwards. ``functions/`` are applied at every migrate, because a function has no data that could be lost: a change
to one is an edit of its file, and no migration.

A migration named ``0020_after_….sql`` takes away what the former version of the code still uses; all others leave that
version running. docs/database.md says how each is written.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection

from fhir_writeback_dagster.errors import ConfigError, ServiceError
from fhir_writeback_dagster.store.advisory_locks import lock_session
from fhir_writeback_dagster.store.db import connect

BASELINE = 18
_SCHEMA_FILES = ("roles", "ops", "audit", "landing", "canonical", "quarantine", "mirror", "decision", "review", "ledger")
_EIGHTEEN = "4f69436e34d5b67bbcd28b2338b166f4e493bc1c1f5212435bfd8952a1998d8d"
"""SHA-256 over the SHA-256s, in order, of the eighteen migrations that the baseline took the place of."""

_NAME = re.compile(r"(\d{4})_(after_)?[a-z0-9_]+\.sql")
_LOCK = 0x66777264  # any constant: one migrate at a time in a database
_LOCK_TIMEOUT = "10s"
_LEDGER = """
CREATE TABLE IF NOT EXISTS public.fhir_writeback_migration (
  number     int PRIMARY KEY,
  name       text NOT NULL,
  sha256     text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now())
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """A numbered file; ``after``: only when the former version of the code runs no more."""

    number: int
    path: Path
    after: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class Scripts:
    """The folders that a database is made from."""

    root: Path = Path(__file__).parent

    def baseline(self) -> list[Path]:
        return [self.root / "schema" / f"{name}.sql" for name in _SCHEMA_FILES]

    def functions(self) -> list[Path]:
        return sorted((self.root / "functions").glob("*.sql"))

    def migrations(self) -> list[Migration]:
        """The numbered files in order.

        :raises ConfigError: a number is missing or stands twice.
        """
        folder = self.root / "migrations"
        matches = [(match, path) for path in folder.glob("*.sql") if (match := _NAME.fullmatch(path.name))]
        found = [Migration(int(match[1]), path, after=bool(match[2])) for match, path in matches]
        found.sort(key=lambda migration: migration.number)
        first = BASELINE + 1
        if [migration.number for migration in found] != list(range(first, first + len(found))):
            raise ConfigError(
                "bad_migrations", f"numbers must run {first}, {first + 1} …", where=str(folder), fix="rename the files"
            )
        return found


def migrate(dsn: str, scripts: Scripts | None = None, *, before_code: bool = False) -> int:
    """Bring the database to this version as the migrator; returns how many migrations were applied.

    ``before_code``: stop at the first migration that the former version of the code would not survive.

    :raises ServiceError: a migration fails, an applied one was changed since, or the database is too old or too new.
    """
    scripts = scripts or Scripts()
    with connect(dsn, application="fhir_writeback_migrate") as connection:
        lock_session(connection, _LOCK)
        # A statement that waits for a lock on a table makes all who come after it wait too.
        connection.execute("SELECT set_config('lock_timeout', %s, false)", (_LOCK_TIMEOUT,))
        connection.execute(_LEDGER)
        done = _applied(connection)
        pending = _pending(scripts.migrations(), done)
        if before_code and done:  # an empty database has no former version of the code
            pending = _before_code(pending)
        if not done:
            _apply(connection, scripts.baseline(), (BASELINE, "baseline"))
        for migration in pending:
            _apply(connection, [migration.path], (migration.number, migration.path.name))
        _apply(connection, scripts.functions())
    return len(pending) + (not done)


def _applied(connection: Connection[Any]) -> dict[int, str]:
    """Number and SHA-256 of what was applied.

    :raises ServiceError: by a version whose migrations the baseline does not stand for.
    """
    done: dict[int, str] = dict(
        connection.execute("SELECT number, sha256 FROM public.fhir_writeback_migration ORDER BY number").fetchall()
    )
    if done and max(done) < BASELINE:
        raise ServiceError(
            "database_too_old",
            f"it stands at migration {max(done)}, and this version begins at {BASELINE}",
            fix=f"run `fhir-writeback migrate` of the last version that has migration {BASELINE} as a file, then this one",
        )
    former = hashlib.sha256("".join(done[number] for number in sorted(done) if number <= BASELINE).encode()).hexdigest()
    if min(done, default=BASELINE) < BASELINE and former != _EIGHTEEN:
        raise ServiceError(
            "migration_changed",
            f"migrations 1 to {BASELINE} were not applied as they were released",
            fix="compare `pg_dump --schema-only` with that of an empty database that this version migrated",
        )
    return done


def _pending(migrations: list[Migration], done: dict[int, str]) -> list[Migration]:
    """:raises ServiceError: an applied one was changed, or the database is of a newer version."""
    newest = migrations[-1].number if migrations else BASELINE
    if done and max(done) > newest:
        raise ServiceError(
            "database_too_new",
            f"it stands at migration {max(done)}, and this version ends at {newest}",
            fix="run the version that migrated it, or a newer one",
        )
    for migration in migrations:
        if done.get(migration.number, migration.sha256) != migration.sha256:
            raise ServiceError(
                "migration_changed", "was applied with other content", where=migration.path.name, fix="add a new file"
            )
    return [migration for migration in migrations if migration.number not in done]


def _before_code(pending: list[Migration]) -> list[Migration]:
    """Those that the former version of the code survives.

    :raises ServiceError: one of them comes after one that it does not survive: the database is more than one version behind.
    """
    before = [migration for migration in pending if not migration.after]
    if before != pending[: len(before)]:
        raise ServiceError(
            "several_versions",
            "the database is more than one version behind",
            where=before[-1].path.name,
            fix="migrate version by version, or stop the code and migrate at once",
        )
    return before


def _apply(connection: Connection[Any], files: list[Path], entry: tuple[int, str] | None = None) -> None:
    """Execute the files in one transaction, and note ``entry`` (number and name) as applied.

    :raises ServiceError: a statement fails, and nothing was changed.
    """
    at, digest = "", hashlib.sha256()
    try:
        with connection.transaction():
            for path in files:
                at, text = path.name, path.read_bytes()
                digest.update(text)
                connection.execute(text)
            if entry:
                connection.execute(
                    "INSERT INTO public.fhir_writeback_migration (number, name, sha256) VALUES (%s, %s, %s)",
                    (*entry, digest.hexdigest()),
                )
    except psycopg.Error as error:
        busy = isinstance(error, psycopg.errors.LockNotAvailable)
        raise ServiceError(
            "migration_failed",
            f"{error.diag.message_primary or 'failed'} (sqlstate {error.sqlstate})",
            where=at,
            fix="a session holds a table for long: run it again when that is done" if busy else "",
        ) from None
