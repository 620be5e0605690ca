"""A PostgreSQL of the user's own, set up by what docs/database.md says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from support import PROJECT, make_home, write_tenant

from fhir_writeback_dagster.config.settings import LAYERS
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.postgres import Postgres
from fhir_writeback_dagster.store.db import Store

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def dsns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    page = (PROJECT / "docs" / "database.md").read_text()
    (statements,) = re.findall(r"```sql\n(.*?)```", page.split("## A server of your own")[1], re.DOTALL)
    postgres = Postgres(StateFolder(tmp_path_factory.mktemp("own")), durable=False)
    try:
        with psycopg.connect(f"{postgres.superuser}postgres", autocommit=True) as server:
            for statement in statements.split(";"):
                server.execute(statement.encode())
        at = f"secret@127.0.0.1:{postgres.port}"
        logins: dict[str, str] = {layer: f"postgresql://fw_{layer}_login:{at}/fhir_writeback" for layer in LAYERS}
        logins |= {"migrator": f"postgresql://fw_migrator:{at}/fhir_writeback", "dagster": f"postgresql://dagster:{at}/dagster"}
        yield logins
    finally:
        postgres.destroy()


def cli(home: Path, dsns: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {f"FHIR_WRITEBACK_DSN_{name.upper()}": dsn for name, dsn in dsns.items()}
    return subprocess.run(
        [BIN / "fhir-writeback", *arguments],
        cwd=home, env=os.environ | environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


def test_the_page_leads_to_a_database_that_a_tenant_can_be_worked_in(tmp_path: Path, dsns: dict[str, str]) -> None:
    home = make_home(tmp_path)
    write_tenant(home, "mercy")
    for arguments in (("migrate", "--before-code"), ("migrate",)):
        done = cli(home, dsns, *arguments)
        assert done.returncode == 0, done.stderr
    with Store(dsns["ingest"], "ingest") as store, store.tenant("mercy") as connection:
        assert connection.execute("SELECT tenant FROM ops.tenant").fetchall() == [("mercy",)]


def test_the_embedded_database_is_not_migrated_beside_its_user(tmp_path: Path) -> None:
    done = cli(make_home(tmp_path), {}, "migrate", "--before-code")
    assert done.returncode == 2
    assert "embedded_database" in done.stderr
