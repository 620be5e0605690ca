"""SECURITY DEFINER functions run their own code as their owner, whatever a caller's session holds."""

from __future__ import annotations

import re
from typing import Any, get_args

import psycopg
import pytest
from psycopg import Connection, sql

from fhir_writeback_dagster.config.settings import Layer
from fhir_writeback_dagster.store.db import connect

LAYERS: tuple[Layer, ...] = get_args(Layer)
TENANT = "definers"

DEFINERS = """
SELECT p.oid::regprocedure::text, p.prosrc, p.proconfig, o.rolsuper OR o.rolbypassrls, o.rolcreaterole,
       has_function_privilege('public', p.oid, 'EXECUTE'), o.rolcanlogin
FROM pg_proc p JOIN pg_roles o ON o.oid = p.proowner
WHERE p.prosecdef AND p.pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
ORDER BY 1
"""

CALLS = {
    "audit.record(text,text[],jsonb[])": "SELECT audit.record('test.attack', ARRAY['x'], NULL)",
    "ops.register_tenant(text)": "SELECT ops.register_tenant('definers-other')",
    "ops.pending(text)": "SELECT * FROM ops.pending('commit')",
    "ops.zones()": "SELECT * FROM ops.zones()",
    "ops.mirrors()": "SELECT * FROM ops.mirrors()",
    "ops.row_ends()": "SELECT * FROM ops.row_ends()",
    "ops.stages()": "SELECT * FROM ops.stages()",
    "ops.refusals()": "SELECT * FROM ops.refusals()",
    "ops.tenants()": "SELECT * FROM ops.tenants()",
    "ops.snapshots()": "SELECT * FROM ops.snapshots()",
    "ops.targets()": "SELECT * FROM ops.targets()",
    "ops.key_content(bytea,bytea)": r"SELECT ops.key_content(repeat('x', 64)::bytea, repeat('x', 64)::bytea)",
}
"""One call of each definer function: a new one needs a line here, or the attack would not be tried on it."""

TYPES = "text int4 int8 bool uuid jsonb timestamptz date bytea name regclass numeric"
FUNCTIONS = {
    "format": "VARIADIC pg_catalog.text[]",
    "hashtext": "pg_catalog.text",
    "current_setting": "pg_catalog.text",
    "substr": "pg_catalog.text, pg_catalog.int4",
    "strpos": "pg_catalog.text, pg_catalog.text",
    "split_part": "pg_catalog.text, pg_catalog.text, pg_catalog.int4",
    "count": "",
    "now": "",
}
RELATIONS = ("pg_roles", "tenant", "event", "extract", "outbox", "candidate", "work", "target", "snapshot", "sync", "row")


def shadow(connection: Connection[Any]) -> None:
    """Make temporary types, casts, functions, operators and relations of the names that a careless function would look up."""
    attempt(
        connection,
        "CREATE FUNCTION pg_temp.evil() RETURNS pg_catalog.bool LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE NOTICE 'ran as %', current_user; RETURN true; END $$",
    )
    attempt(connection, "GRANT EXECUTE ON FUNCTION pg_temp.evil TO PUBLIC")
    for name in TYPES.split():
        attempt(connection, f"CREATE DOMAIN pg_temp.{name} AS pg_catalog.{name} CHECK (pg_temp.evil())")
    for name, arguments in FUNCTIONS.items():
        attempt(
            connection,
            f"CREATE FUNCTION pg_temp.{name}({arguments}) RETURNS pg_catalog.text LANGUAGE sql "
            "AS 'SELECT pg_temp.evil()::pg_catalog.text'",
        )
    for operator in ("=", "<>", "~", "!~", "||"):
        function = {"=": "eq", "<>": "ne", "~": "re", "!~": "nre", "||": "cat"}[operator]
        attempt(
            connection,
            f"CREATE FUNCTION pg_temp.{function}(pg_catalog.text, pg_catalog.text) RETURNS pg_catalog.bool LANGUAGE sql "
            "AS 'SELECT pg_temp.evil()'",
        )
        attempt(
            connection,
            f"CREATE OPERATOR pg_temp.{operator} "
            f"(FUNCTION = pg_temp.{function}, LEFTARG = pg_catalog.text, RIGHTARG = pg_catalog.text)",
        )
    for name in RELATIONS:
        attempt(
            connection,
            f"CREATE VIEW pg_temp.{name} AS "
            "SELECT 'x'::pg_catalog.text AS tenant, 'x'::pg_catalog.name AS rolname WHERE pg_temp.evil()",
        )
        attempt(connection, f"GRANT ALL ON pg_temp.{name} TO PUBLIC")


def attempt(connection: Connection[Any], statement: str) -> bool:
    try:
        connection.execute(statement.encode())
    except psycopg.Error:
        return False
    return True


@pytest.fixture(scope="module")
def definers(database: Any) -> list[tuple[Any, ...]]:
    database.register(TENANT)
    with connect(database.superuser) as connection:
        return connection.execute(DEFINERS).fetchall()


@pytest.mark.parametrize("layer", LAYERS)
def test_no_login_runs_code_of_its_own_as_an_owner(database: Any, definers: Any, layer: Layer) -> None:
    heard: list[str] = []
    reached = set()
    for function in (row[0] for row in definers):
        for path in ("", "pg_temp, pg_catalog"):
            with connect(database.dsn(layer)) as connection:  # one session each: plpgsql keeps what it compiled
                role = sql.Identifier(f"fw_{layer}__{TENANT}")
                connection.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
                connection.execute(sql.SQL("SET ROLE {}").format(role))
                shadow(connection)
                if path:
                    connection.execute(f"SET search_path = {path}".encode())
                reached |= {function} if attempt(connection, CALLS[function]) else set()
                connection.execute("RESET ROLE")
                shadow(connection)
                reached |= {function} if attempt(connection, CALLS[function]) else set()
    mine = {f"ran as fw_{layer}_login", f"ran as fw_{layer}__{TENANT}"}
    assert {text for text in heard if text.startswith("ran as ")} - mine == set()
    assert reached, "the attack never came as far as a definer function"


def test_every_definer_function_is_safe_by_its_own_settings(definers: Any) -> None:
    assert {row[0] for row in definers} == set(CALLS)
    for name, source, config, above_rows, makes_roles, public, can_log_in in definers:
        assert config == ["search_path=pg_catalog, pg_temp"], name
        assert not above_rows, f"{name} belongs to a role that no row-level security holds"
        assert not makes_roles or name == "ops.register_tenant(text)", f"{name} belongs to a role that makes roles"
        assert not public, f"everybody may execute {name}"
        assert not can_log_in, f"{name} belongs to a login"
        assert unqualified_types(source) == set(), name


def unqualified_types(source: str) -> set[str]:
    """Types that a body declares or casts to without their schema."""
    casts = re.findall(r"::\s*(\w+)(?![\w.])", source)
    declared = re.search(r"DECLARE(.*?)BEGIN", source, re.DOTALL)
    variables = re.findall(r"^\s*\w+\s+(\w+)(?![\w.])", declared[1], re.MULTILINE) if declared else []
    return {*casts, *variables}


@pytest.mark.parametrize("layer", LAYERS)
def test_only_layers_that_copy_may_make_temporary_tables(database: Any, definers: Any, layer: Layer) -> None:
    with connect(database.dsn(layer)) as connection:
        assert not attempt(connection, "CREATE TEMP TABLE mine (n int)")
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(f"fw_{layer}__{TENANT}")))
        assert attempt(connection, "CREATE TEMP TABLE mine (n int)") == (layer in ("ingest", "decide", "commit"))
