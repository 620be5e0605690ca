"""The fixtures that every other test stands on."""

from __future__ import annotations

import psycopg
import pytest
from support import Database


@pytest.mark.parametrize("name", ["ingest", "decide", "commit", "audit", "status", "dagster"])
def test_every_login_of_the_database_works(database: Database, name: str) -> None:
    with psycopg.connect(database.dsn(name)) as connection:
        row = connection.execute("SELECT session_user").fetchone()
    assert row == ("dagster" if name == "dagster" else f"fw_{name}_login",)


def test_the_migrator_has_no_rights_left_while_the_project_runs(database: Database) -> None:
    with psycopg.connect(database.superuser) as connection:
        row = connection.execute(
            "SELECT rolcanlogin, rolcreaterole, rolbypassrls, rolsuper FROM pg_roles WHERE rolname = 'fw_migrator'"
        ).fetchone()
    assert row == (False, False, False, False)


def test_a_layer_login_does_not_reach_dagsters_database(database: Database) -> None:
    dsn = database.dsn("ingest").rsplit("/", 1)[0] + "/dagster"
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(dsn)


def test_a_tenant_can_be_worked_with_and_is_empty_when_made_again(make_tenant, open_run) -> None:  # type: ignore[no-untyped-def]
    for _ in range(2):
        tenant = make_tenant("mercy", modes={"by_type": {"Condition": "shadow"}})
        assert tenant.modes.of("Condition") == "shadow"
        assert tenant.modes.of("Observation") == "auto"
        with open_run("ingest", tenant) as run, run.store.tenant(run.id) as connection:
            assert connection.execute("SELECT count(*) FROM ops.data_key WHERE tenant = %s", (run.id,)).fetchone() == (1,)
            sealed = run.sealer.seal("canonical.row", 1, b"x")
            assert run.sealer.open("canonical.row", 1, sealed) == b"x"
