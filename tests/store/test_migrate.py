"""A database that older versions made and one that is made now are the same, and no migrate does half of what it should."""

from __future__ import annotations

import difflib
import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from fhir_writeback_dagster.errors import ConfigError, ServiceError
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.installation import find_binaries
from fhir_writeback_dagster.ops.postgres import Postgres
from fhir_writeback_dagster.store.migrate import BASELINE, Scripts, migrate

EIGHTEEN = sorted((Path(__file__).parent / "schema_18").glob("*.sql"))
"""The migrations that the baseline took the place of, as they were released."""

TAKES_AWAY = re.compile(
    r"\b(DROP (TABLE|COLUMN|SCHEMA|TYPE)|RENAME|SET NOT NULL|ALTER COLUMN \w+ TYPE|REVOKE .* ON \w+\.)", re.IGNORECASE
)


@pytest.fixture(scope="module")
def make_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """A new, empty database of a server of its own, and a DSN of its migrator."""
    postgres = Postgres(StateFolder(tmp_path_factory.mktemp("server")), durable=False)
    numbers = count(1)

    def make() -> str:
        name = f"db{next(numbers)}"
        with psycopg.connect(f"{postgres.superuser}postgres", autocommit=True) as server:
            server.execute(sql.SQL("CREATE DATABASE {} OWNER migrator").format(sql.Identifier(name)))
        return f"postgresql://migrator:secret@127.0.0.1:{postgres.port}/{name}"  # pragma: allowlist secret

    try:
        with psycopg.connect(f"{postgres.superuser}postgres", autocommit=True) as server:
            server.execute("CREATE ROLE migrator LOGIN CREATEROLE BYPASSRLS PASSWORD 'secret'")
        yield make
    finally:
        postgres.destroy()


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    """A copy of the shipped scripts, to be added to."""
    for folder in ("schema", "migrations", "functions"):
        shutil.copytree(Scripts().root / folder, tmp_path / folder)
    return Scripts(tmp_path)


def migrate_as_before(dsn: str, files: list[Path]) -> None:
    """What the runner of version 0.1.0 did."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS public.fhir_writeback_migration "
            "(number int PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, "
            "applied_at timestamptz NOT NULL DEFAULT now())"
        )
        for number, path in enumerate(files, 1):
            connection.execute(path.read_bytes())
            connection.execute(
                "INSERT INTO public.fhir_writeback_migration (number, name, sha256) VALUES (%s, %s, %s)",
                (number, path.name, hashlib.sha256(path.read_bytes()).hexdigest()),
            )


def structure(dsn: str) -> list[str]:
    program = find_binaries() / "bin" / "pg_dump"
    dump = subprocess.run([program, "--schema-only", dsn], capture_output=True, text=True, check=True).stdout
    return [line for line in dump.splitlines() if not line.startswith((r"\restrict", r"\unrestrict"))]


def one(dsn: str, statement: str, *parameters: Any) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(statement.encode(), parameters).fetchone()
    return row[0] if row else None


def next_file(scripts: Scripts, name: str, text: str) -> Path:
    path = scripts.root / "migrations" / f"{BASELINE + len(scripts.migrations()) + 1:04d}_{name}.sql"
    path.write_text(text)
    return path


def test_an_installation_of_before_the_baseline_becomes_what_a_new_one_is(make_database: Callable[[], str]) -> None:
    fresh, older = make_database(), make_database()
    migrate(fresh)
    migrate_as_before(older, EIGHTEEN)
    assert migrate(older) == len(Scripts().migrations())
    made, expected = structure(older), structure(fresh)
    assert len(expected) > 1000
    assert not list(difflib.unified_diff(expected, made, "fresh", "migrated", lineterm=""))


def test_an_installation_of_before_the_baseline_goes_on_with_its_data(make_database: Callable[[], str]) -> None:
    dsn = make_database()
    migrate_as_before(dsn, EIGHTEEN)
    assert one(dsn, "SELECT ops.register_tenant('old')") is True
    with psycopg.connect(dsn) as connection:
        connection.execute("GRANT fw_commit__old TO CURRENT_USER")
        connection.execute("SET LOCAL ROLE fw_commit__old")
        connection.execute("SELECT audit.record('test.before', ARRAY['x'])")
    migrate(dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute("SET LOCAL ROLE fw_commit__old")
        connection.execute("SELECT audit.record('test.after', ARRAY['x'])")
    assert one(dsn, "SELECT array_agg(type ORDER BY id) FROM audit.event WHERE tenant = 'old'") == ["test.before", "test.after"]
    assert one(dsn, "SELECT ops.register_tenant('old')") is False
    assert one(dsn, "SELECT ops.register_tenant('new')") is True
    assert one(dsn, "SELECT array_agg(t) FROM ops.tenants() t") == ["new", "old"]


def test_a_second_database_of_a_server_shares_its_roles(make_database: Callable[[], str]) -> None:
    one_of_them, other = make_database(), make_database()
    for dsn in (one_of_them, other):
        migrate(dsn)
        assert one(dsn, "SELECT ops.register_tenant('shared')") is True


def test_a_migrated_database_is_left_as_it_is(make_database: Callable[[], str]) -> None:
    dsn = make_database()
    assert migrate(dsn) == 1 + len(Scripts().migrations())
    before = structure(dsn)
    assert migrate(dsn) == 0
    assert structure(dsn) == before


def test_an_installation_that_stands_amid_the_eighteen_is_refused_and_told_the_fix(make_database: Callable[[], str]) -> None:
    dsn = make_database()
    migrate_as_before(dsn, EIGHTEEN[:11])
    before = structure(dsn)
    with pytest.raises(ServiceError, match=r"stands at migration 11.*database_too_old.*the last version that has migration 18"):
        migrate(dsn)
    assert structure(dsn) == before


def test_an_installation_whose_eighteen_were_others_is_refused(make_database: Callable[[], str], tmp_path: Path) -> None:
    dsn = make_database()
    changed = tmp_path / EIGHTEEN[-1].name
    changed.write_bytes(EIGHTEEN[-1].read_bytes() + b"\n-- changed\n")
    migrate_as_before(dsn, [*EIGHTEEN[:-1], changed])
    with pytest.raises(ServiceError, match="migration_changed"):
        migrate(dsn)


def test_an_older_version_leaves_the_database_of_a_newer_one_alone(make_database: Callable[[], str], scripts: Scripts) -> None:
    dsn = make_database()
    next_file(scripts, "newer", "CREATE TABLE ops.newer ();")
    migrate(dsn, scripts)
    with pytest.raises(ServiceError, match="database_too_new"):
        migrate(dsn)


def test_an_applied_migration_that_was_changed_is_refused(make_database: Callable[[], str], scripts: Scripts) -> None:
    dsn = make_database()
    path = next_file(scripts, "newer", "CREATE TABLE ops.newer ();")
    migrate(dsn, scripts)
    path.write_text("CREATE TABLE ops.newer (n int);")
    with pytest.raises(ServiceError, match=f"{path.name}.*migration_changed"):
        migrate(dsn, scripts)


def test_a_migration_that_fails_changes_nothing_and_is_named(make_database: Callable[[], str], scripts: Scripts) -> None:
    dsn = make_database()
    migrate(dsn, scripts)
    path = next_file(scripts, "broken", "CREATE TABLE ops.half (); SELECT 1/0;")
    with pytest.raises(ServiceError, match=f"{path.name}.*22012.*migration_failed"):
        migrate(dsn, scripts)
    assert one(dsn, "SELECT to_regclass('ops.half')::text") is None
    path.write_text("CREATE TABLE ops.half ();")
    assert migrate(dsn, scripts) == 1


def test_a_function_is_replaced_by_the_text_of_its_file(make_database: Callable[[], str], scripts: Scripts) -> None:
    dsn = make_database()
    migrate(dsn, scripts)
    path = scripts.root / "functions" / "counts.sql"
    path.write_text(path.read_text().replace("t.tenant FROM ops.tenant t", "upper(t.tenant) FROM ops.tenant t"))
    one(dsn, "SELECT ops.register_tenant('mercy')")
    migrate(dsn, scripts)
    assert one(dsn, "SELECT array_agg(t) FROM ops.tenants() t") == ["MERCY"]


def test_before_new_code_only_what_the_former_code_survives_is_applied(
    make_database: Callable[[], str], scripts: Scripts
) -> None:
    dsn = make_database()
    migrate(dsn, scripts)
    next_file(scripts, "adds", "CREATE TABLE ops.added (former int);")
    next_file(scripts, "after_drops", "ALTER TABLE ops.added DROP COLUMN former;")
    migrate(dsn, scripts, before_code=True)
    columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'added'"
    assert one(dsn, columns) == 1
    assert migrate(dsn, scripts) == 1
    assert one(dsn, columns) == 0


def test_versions_are_not_skipped_while_code_runs(make_database: Callable[[], str], scripts: Scripts) -> None:
    dsn = make_database()
    migrate(dsn, scripts)
    next_file(scripts, "after_drops", "SELECT 1;")
    next_file(scripts, "adds", "SELECT 1;")
    with pytest.raises(ServiceError, match="several_versions"):
        migrate(dsn, scripts, before_code=True)
    migrate(dsn, scripts)


def test_a_migration_waits_only_briefly_for_a_table_that_is_in_use(
    make_database: Callable[[], str], scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhir_writeback_dagster.store.migrate._LOCK_TIMEOUT", "100ms")
    dsn = make_database()
    migrate(dsn, scripts)
    next_file(scripts, "adds", "ALTER TABLE ledger.work ADD COLUMN more int;")
    with psycopg.connect(dsn) as busy:
        busy.execute("SELECT count(*) FROM ledger.work")
        with pytest.raises(ServiceError, match=r"55P03.*run it again"):
            migrate(dsn, scripts)
    assert migrate(dsn, scripts) == 1


def test_a_gap_or_a_double_number_is_refused(scripts: Scripts) -> None:
    top = BASELINE + len(scripts.migrations())
    for number in (top, top + 2):
        path = scripts.root / "migrations" / f"{number:04d}_x.sql"
        path.write_text("SELECT 1;")
        with pytest.raises(ConfigError, match="bad_migrations"):
            scripts.migrations()
        path.unlink()


def test_the_shipped_files_are_where_they_are_looked_for() -> None:
    shipped = Scripts()
    assert set(shipped.baseline()) == set((shipped.root / "schema").glob("*.sql"))
    numbered = {migration.path for migration in shipped.migrations()}
    assert numbered == set((shipped.root / "migrations").iterdir())


def test_the_shipped_migrations_take_away_only_afterwards_and_define_no_function() -> None:
    for migration in Scripts().migrations():
        text = re.sub(r"--.*", "", migration.path.read_text())
        assert migration.after or not TAKES_AWAY.search(text), migration.path.name
        assert not re.search(r"CREATE (OR REPLACE )?FUNCTION", text, re.IGNORECASE), f"{migration.path.name}: use functions/"
