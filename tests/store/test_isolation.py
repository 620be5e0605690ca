"""What each layer's and each tenant's role can reach, asked of a real PostgreSQL."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from fhir_writeback_dagster.errors import LaneHeld, ServiceError
from fhir_writeback_dagster.store.db import Store, connect, lane, record_event, set_tenant

TENANT_TABLES = """
SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant'
WHERE c.relkind = 'r' AND n.nspname IN ('ops','landing','canonical','decision','mirror','ledger','review','quarantine','audit')
"""


def denied(dsn: str, layer: Any, tenant: str, statement: str) -> bool:
    with connect(dsn) as connection:
        try:
            with connection.transaction():
                set_tenant(connection, layer, tenant)
                connection.execute(statement)
        except psycopg.errors.InsufficientPrivilege:
            return True
    return False


@pytest.fixture
def two(make_tenant: Any) -> tuple[str, str]:
    return make_tenant("isol-a").tenant, make_tenant("isol-b").tenant


@pytest.mark.parametrize(
    ("layer", "table"),
    [
        ("ingest", "ledger.intent"),
        ("ingest", "mirror.patient"),
        ("ingest", "mirror.lookup"),
        ("ingest", "decision.candidate"),
        ("ingest", "review.task"),
        ("decide", "landing.extract"),
        ("decide", "ledger.work"),
        ("decide", "ledger.attempt"),
        ("decide", "audit.event"),
        ("commit", "canonical.row"),
        ("commit", "canonical.record"),
        ("commit", "landing.extract"),
        ("commit", "decision.fact"),
        ("audit", "canonical.row"),
        ("audit", "mirror.patient"),
    ],
)
def test_a_layer_cannot_read_what_is_not_its_own(database: Any, two: tuple[str, str], layer: str, table: str) -> None:
    assert denied(database.dsn(layer), layer, two[0], f"SELECT 1 FROM {table}")


@pytest.mark.parametrize(
    ("layer", "statement"),
    [
        ("decide", "INSERT INTO ledger.intent (tenant) VALUES ('isol-a')"),
        ("decide", "UPDATE canonical.record SET kind = 'x' WHERE tenant = 'isol-a'"),
        ("decide", "SELECT base FROM ledger.link WHERE tenant = 'isol-a'"),
        ("decide", "SELECT search FROM mirror.lookup WHERE tenant = 'isol-a'"),
        ("decide", "UPDATE mirror.lookup SET outcome = 'found' WHERE tenant = 'isol-a'"),
        ("decide", "DELETE FROM mirror.lookup WHERE tenant = 'isol-a'"),
        ("commit", "INSERT INTO mirror.lookup (tenant) VALUES ('isol-a')"),
        ("commit", "UPDATE decision.candidate SET state = 'approved' WHERE tenant = 'isol-a'"),
        ("commit", "DELETE FROM ledger.intent WHERE tenant = 'isol-a'"),
        ("ingest", "UPDATE audit.event SET type = 'x.y' WHERE tenant = 'isol-a'"),
        ("audit", "DELETE FROM audit.event WHERE tenant = 'isol-a'"),
        ("commit", "INSERT INTO audit.event (tenant, layer, actor, type, subject) VALUES ('isol-a', 'x', 'x', 'a.b', 'x')"),
    ],
)
def test_a_layer_cannot_write_what_is_not_its_own(database: Any, two: tuple[str, str], layer: str, statement: str) -> None:
    assert denied(database.dsn(layer), layer, two[0], statement)


def test_every_table_of_tenants_has_forced_row_level_security_and_keys_that_begin_with_the_tenant(database: Any) -> None:
    with connect(database.superuser) as connection:
        tables = [row[0] for row in connection.execute(TENANT_TABLES)]
        open_tables = connection.execute(
            f"SELECT oid::regclass::text FROM pg_class WHERE oid::regclass::text IN (SELECT * FROM ({TENANT_TABLES}) t) "
            "AND NOT (relrowsecurity AND relforcerowsecurity)"
        ).fetchall()
        foreign_keys = connection.execute(
            f"SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid "
            f"AND a.attnum = i.indkey[0] WHERE i.indisunique AND a.attname <> 'tenant' "
            f"AND i.indrelid::regclass::text IN (SELECT * FROM ({TENANT_TABLES}) t)"
        ).fetchall()
    assert len(tables) > 20
    assert open_tables == []
    # The log's own number is the one key that no tenant can choose.
    assert foreign_keys == [("audit.event_pkey",)]


def test_a_tenant_role_neither_sees_nor_makes_a_row_of_another(database: Any, two: tuple[str, str]) -> None:
    mine, other = two
    insert = "INSERT INTO canonical.outbox (tenant, record_id) VALUES (%s, gen_random_uuid())"
    with Store(database.dsn("ingest"), "ingest") as store:
        with store.tenant(mine) as connection:
            connection.execute(insert, (mine,))
        with store.tenant(other) as connection:
            assert connection.execute("SELECT count(*) FROM canonical.outbox").fetchone() == (0,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(insert, (mine,))
        with store.tenant(mine) as connection:
            assert connection.execute("SELECT count(*) FROM canonical.outbox").fetchone() == (1,)


def test_a_login_without_a_tenant_role_reaches_nothing(database: Any, two: tuple[str, str]) -> None:
    with connect(database.dsn("ingest")) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM canonical.row")


def test_a_login_cannot_take_another_layers_role(database: Any, two: tuple[str, str]) -> None:
    with connect(database.dsn("ingest")) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(f'SET ROLE "fw_commit__{two[0]}"')


def test_only_status_may_ask_for_the_ends_of_rows(database: Any) -> None:
    with connect(database.dsn("status")) as connection:
        connection.execute("SELECT * FROM ops.row_ends()")
    with connect(database.dsn("ingest")) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM ops.row_ends()")


def test_an_event_takes_tenant_and_actor_from_the_role_and_the_login(database: Any, two: tuple[str, str]) -> None:
    with Store(database.dsn("commit"), "commit") as store, store.tenant(two[1]) as connection:
        record_event(connection, "test.told", ["subject-1"], [{"n": 1}])
    with Store(database.dsn("audit"), "audit") as store, store.tenant(two[1]) as connection:
        rows = connection.execute("SELECT layer, actor, subject, detail FROM audit.event WHERE type = 'test.told'").fetchall()
    assert rows == [("commit", "fw_commit_login", "subject-1", {"n": 1})]


def test_an_event_goes_with_the_transaction_that_it_tells_of(database: Any, two: tuple[str, str]) -> None:
    with Store(database.dsn("commit"), "commit") as store:

        def half_done() -> None:
            with store.tenant(two[0]) as connection:
                record_event(connection, "test.undone", ["subject-2"])
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            half_done()
    with Store(database.dsn("audit"), "audit") as store, store.tenant(two[0]) as connection:
        assert connection.execute("SELECT count(*) FROM audit.event WHERE type = 'test.undone'").fetchone() == (0,)


def test_an_event_without_a_tenant_role_is_refused(database: Any) -> None:
    with connect(database.dsn("commit")) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT audit.record('a.b', ARRAY['x'])")


@pytest.mark.parametrize("name", ["../etc", "Mercy", "", "a" * 32, 'x"; DROP TABLE ops.tenant; --', "1a"])
def test_a_bad_tenant_id_never_becomes_a_role(database: Any, name: str) -> None:
    with connect(database.dsn("ingest")) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("SELECT ops.register_tenant(%s)", (name,))


def test_a_tenant_that_is_not_registered_is_told_so(database: Any) -> None:
    with (
        Store(database.dsn("ingest"), "ingest") as store,
        pytest.raises(ServiceError, match="tenant_not_registered"),
        store.tenant("nobody"),
    ):
        pass


def test_the_second_comer_to_a_lane_is_told_who_holds_it(database: Any) -> None:
    with lane(database.dsn("ingest"), "ingest", "isol-a", "run-1"):
        with lane(database.dsn("ingest"), "ingest", "isol-b", "run-2"), lane(database.dsn("commit"), "commit", "isol-a", "run-3"):
            pass
        with pytest.raises(LaneHeld, match="run-1"), lane(database.dsn("commit"), "ingest", "isol-a", "run-4"):
            pass
    with lane(database.dsn("ingest"), "ingest", "isol-a", "run-5"):
        pass
