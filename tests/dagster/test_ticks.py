"""Every sensor and schedule of every code location is ticked, as the daemon does it, with no tenant, one, two and fifty."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from conftest import MakeTenant
from dagster._core.remote_origin import RegisteredCodeLocationOrigin
from dagster._grpc.impl import get_external_schedule_execution, get_external_sensor_execution
from support import PROJECT, Database

from fhir_writeback_dagster.config.settings import HOME
from fhir_writeback_dagster.config.tenants import tenant_ids
from fhir_writeback_dagster.ids import new_id

LOCATIONS = ("ingest", "decide", "commit", "audit")


@pytest.fixture
def repositories(monkeypatch: pytest.MonkeyPatch) -> dict[str, dg.RepositoryDefinition]:
    monkeypatch.setenv(HOME, str(PROJECT))
    return {name: import_module(f"fhir_writeback_dagster.locations.{name}").defs.get_repository_def() for name in LOCATIONS}


def _give_work(database: Database, home: Path, tenant: str) -> None:
    """Something for every lane."""
    (home / "landing" / tenant / "synthea_csv" / "conditions.csv").write_text("START,STOP\n")
    with psycopg.connect(database.superuser) as connection:
        connection.execute("INSERT INTO canonical.outbox (tenant, record_id) VALUES (%s, %s)", (tenant, new_id()))
        connection.execute("INSERT INTO decision.outbox (tenant, candidate_id) VALUES (%s, %s)", (tenant, new_id()))
        connection.execute(
            "INSERT INTO ledger.snapshot (tenant, target, body, findings, approved_by, compared_at) "
            "VALUES (%s, 'ehr', '{}', '{}', 'somebody', '2020-01-01')",
            (tenant,),
        )


def _tick(instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, name: str) -> tuple[list[str | None], Any]:
    """What the daemon gets of a code location: the partitions that runs are asked for, and the whole of it."""
    if name in {schedule.name for schedule in repository.schedule_defs}:
        at = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()
        told: Any = get_external_schedule_execution(repository, instance.get_ref(), name, at, "UTC", None)
    else:
        origin = RegisteredCodeLocationOrigin("here")
        told = get_external_sensor_execution(repository, origin, instance.get_ref(), name, None, None, None, None, None)
    assert not hasattr(told, "error"), f"{name}: {told.error.message} {told.error.cause}"
    return [request.partition_key for request in told.run_requests or []], told


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_every_sensor_and_schedule_is_ticked_with_so_many_tenants(
    instance: dg.DagsterInstance,
    repositories: dict[str, dg.RepositoryDefinition],
    layer_environment: Callable[[str], None],
    database: Database,
    home: Path,
    make_tenant: MakeTenant,
    count: int,
) -> None:
    expected = sorted(make_tenant(f"tick{number}").tenant for number in range(count))
    assert sorted(tenant_ids(home / "tenants")) == expected
    for tenant in expected:
        _give_work(database, home, tenant)
    ticked = 0
    for location, repository in repositories.items():
        layer_environment(location)
        names = [*(s.name for s in repository.sensor_defs), *(s.name for s in repository.schedule_defs)]
        for name in names:
            if name == "tenant_sensor":
                _, told = _tick(instance, repository, name)
                added = told.dynamic_partitions_requests
                assert sorted(added[0].partition_keys if added else []) == expected
                instance.add_dynamic_partitions("tenant", expected)
        for name in names:
            if name != "tenant_sensor":
                asked, told = _tick(instance, repository, name)
                assert sorted(filter(None, asked)) == expected, f"{name}: {told.skip_message}"
            ticked += 1
    assert ticked == 8
