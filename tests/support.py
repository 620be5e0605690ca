"""What the fixtures of ``conftest.py`` are made of, for fixtures of other scopes."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import yaml
from psycopg import sql

from fhir_writeback_dagster.config.settings import Layer, Settings
from fhir_writeback_dagster.config.tenants import Tenant, load_tenant
from fhir_writeback_dagster.ops.postgres import Postgres
from fhir_writeback_dagster.ops.provision import DATABASE, Dsns
from fhir_writeback_dagster.orchestration.run_context import RunContext, open_run, utc_now

PROJECT = Path(__file__).resolve().parent.parent
KINDS = (
    "vital_sign", "lab_result", "condition", "medication_request", "allergy", "immunization", "procedure", "document", "patient",
)  # fmt: skip


class Database:
    """A migrated database of a real server. Every (layer, tenant) role is made by ``register``."""

    def __init__(self, postgres: Postgres, dsns: Dsns) -> None:
        self.postgres, self._dsns = postgres, dsns
        self.superuser = postgres.superuser + DATABASE

    def dsn(self, name: str) -> str:
        """``ingest``, ``decide``, ``commit``, ``audit``, ``status`` or ``dagster``."""
        return self._dsns.of(name)

    def register(self, tenant: str) -> None:
        """Register the tenant, or empty it where an earlier test used its name."""
        with psycopg.connect(self.dsn("ingest"), autocommit=True) as connection:
            fresh = connection.execute("SELECT ops.register_tenant(%s)", (tenant,)).fetchone()
        if fresh == (False,):
            self._empty(tenant)

    def _empty(self, tenant: str) -> None:
        with psycopg.connect(self.superuser) as connection:
            connection.execute("SET LOCAL session_replication_role = replica")  # no triggers, no foreign keys
            tables = connection.execute(
                "SELECT c.table_schema, c.table_name FROM information_schema.columns c JOIN information_schema.tables t "
                "USING (table_schema, table_name) WHERE c.column_name = 'tenant' AND t.table_type = 'BASE TABLE' "
                "AND c.table_schema NOT IN ('pg_catalog', 'information_schema') AND c.table_name <> 'tenant'"
            ).fetchall()
            for table in tables:
                connection.execute(sql.SQL("DELETE FROM {} WHERE tenant = %s").format(sql.Identifier(*table)), (tenant,))


def make_home(folder: Path) -> Path:
    """A project home with the shipped mappings, expectations and policies."""
    for name in ("mappings", "expectations", "policies"):
        (folder / name).symlink_to(PROJECT / name)
    for name in ("tenants", "keys", "landing"):
        (folder / name).mkdir(mode=0o700)
    return folder


def write_tenant(home: Path, name: str, overrides: dict[str, Any] | None = None) -> Tenant:
    """Write ``tenants/<name>.yaml``, its keys and its landing folders; nothing is registered.

    ``overrides`` are merged into the defaults, deeply; ``sources`` replaces them.
    """
    document = {
        "tenant": name,
        "time_zone": "America/New_York",
        "identifier_system": f"https://{name}.example/fhir-writeback",
        "ehr": {"base_url": "http://127.0.0.1:9/fhir", "sandbox": True, "auth": {"type": "none"}},
        "keys": {"sealing": f"file://keys/{name}.sealing", "identity": [f"file://keys/{name}.identity"]},
        "sources": {"synthea_csv": {"version": 1, "landing": f"landing/{name}/synthea_csv"}},
        "mappings": dict.fromkeys(KINDS, 1),
        "modes": {"default": "auto"},
    }
    changes = dict(overrides or {})
    document["sources"] = changes.pop("sources", document["sources"])
    _merge(document, changes)
    (home / "tenants" / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    for kind in ("sealing", "identity"):
        key = home / "keys" / f"{name}.{kind}"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(base64.b64encode(os.urandom(32)))
    tenant = load_tenant(home / "tenants", name)
    for source in tenant.sources.values():
        if "://" not in source.landing:
            (home / source.landing).mkdir(parents=True, exist_ok=True)
    return tenant


def _merge(document: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(document.get(key), dict):
            _merge(document[key], value)
        else:
            document[key] = value


@contextmanager
def open_layer(
    home: Path, database: Database, layer: Layer, tenant: str, now: Callable[[], datetime] = utc_now, run_id: str = "test-run"
) -> Iterator[RunContext]:
    """What a run of the layer works with."""
    with open_run(Settings(home, layer, database.dsn(layer)), tenant, run_id, now) as run:
        yield run


def eventually(happened: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
    """Wait until ``happened`` says so; fails with ``what`` when it does not."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)
