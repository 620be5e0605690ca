"""What each sensor sees: real zones, real queues, and tenants that come, go and break."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from conftest import MakeTenant, OpenLayer
from support import PROJECT, Database

from fhir_writeback_dagster.ids import new_id


@pytest.fixture
def tick(
    instance: dg.DagsterInstance, layer_environment: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dg.SensorResult]:
    """``tick("decide", "decide_sensor")`` evaluates it as the daemon would."""
    monkeypatch.setenv("FHIR_WRITEBACK_HOME", str(PROJECT))
    for location in ("ingest", "decide", "commit"):
        import_module(f"fhir_writeback_dagster.locations.{location}")

    def evaluate(location: str, name: str) -> dg.SensorResult:
        layer_environment(location)
        module = import_module(f"fhir_writeback_dagster.{location}.sensors")
        with dg.build_sensor_context(instance=instance) as context:
            ticked: dg.SensorResult = getattr(module, name)(context)
            return ticked

    return evaluate


def partitions(result: dg.SensorResult) -> list[str | None]:
    return [request.partition_key for request in result.run_requests or []]


def queue(database: Database, table: str, column: str, tenant: str) -> None:
    with psycopg.connect(database.superuser) as connection:
        connection.execute(f"INSERT INTO {table} (tenant, {column}) VALUES (%s, %s)", (tenant, new_id()))


@pytest.mark.parametrize(
    ("location", "sensor", "table", "column"),
    [
        ("decide", "decide_sensor", "canonical.outbox", "record_id"),
        ("decide", "decide_sensor", "ledger.outbox", "candidate_id"),
        ("commit", "commit_sensor", "decision.outbox", "candidate_id"),
    ],
)
def test_a_sensor_asks_for_the_tenants_with_something_in_its_queue(
    tick: Callable[..., Any],
    instance: dg.DagsterInstance,
    database: Database,
    make_tenant: MakeTenant,
    location: str,
    sensor: str,
    table: str,
    column: str,
) -> None:
    for tenant in ("mercy", "other"):
        make_tenant(tenant)
        instance.add_dynamic_partitions("tenant", [tenant])
    assert tick(location, sensor).skip_reason is not None
    queue(database, table, column, "mercy")
    assert partitions(tick(location, sensor)) == ["mercy"]


def test_the_extract_sensor_asks_for_a_tenant_whose_zone_has_something_new(
    tick: Callable[..., Any], instance: dg.DagsterInstance, make_tenant: MakeTenant, home: Path, open_run: OpenLayer
) -> None:
    for tenant in ("mercy", "other"):
        make_tenant(tenant)
        instance.add_dynamic_partitions("tenant", [tenant])
    assert partitions(tick("ingest", "extract_sensor")) == []
    (home / "landing" / "mercy" / "synthea_csv" / "conditions.csv").write_text("START,STOP\n")
    assert partitions(tick("ingest", "extract_sensor")) == ["mercy"]
    from fhir_writeback_dagster.ingest.pipeline import land, normalise

    with open_run("ingest", "mercy") as run:
        land(run)
        assert partitions(tick("ingest", "extract_sensor")) == ["mercy"], "landed and not yet read"
        normalise(run)
    assert partitions(tick("ingest", "extract_sensor")) == []


def test_a_tenant_that_is_broken_stops_no_other(
    tick: Callable[..., Any], instance: dg.DagsterInstance, make_tenant: MakeTenant, home: Path
) -> None:
    for tenant in ("bad", "mercy"):
        make_tenant(tenant)
        instance.add_dynamic_partitions("tenant", [tenant])
        (home / "landing" / tenant / "synthea_csv" / "conditions.csv").write_text("START,STOP\n")
    (home / "tenants" / "bad.yaml").write_text("tenant: bad\n")
    assert partitions(tick("ingest", "extract_sensor")) == ["mercy"]
    (home / "tenants" / "mercy.yaml").unlink()
    reason = tick("ingest", "extract_sensor").skip_reason.skip_message
    assert "bad.yaml:1" in reason


def test_a_missing_key_is_said_by_the_run_because_no_sensor_reads_one(
    tick: Callable[..., Any], instance: dg.DagsterInstance, make_tenant: MakeTenant, home: Path
) -> None:
    make_tenant("keyless")
    instance.add_dynamic_partitions("tenant", ["keyless"])
    (home / "landing" / "keyless" / "synthea_csv" / "conditions.csv").write_text("START,STOP\n")
    (home / "keys" / "keyless.sealing").unlink()
    assert partitions(tick("ingest", "extract_sensor")) == ["keyless"]


def test_the_mirror_is_asked_for_as_soon_as_a_tenant_is_there(
    tick: Callable[..., Any], instance: dg.DagsterInstance, make_tenant: MakeTenant
) -> None:
    make_tenant("mercy")
    instance.add_dynamic_partitions("tenant", ["mercy"])
    assert partitions(tick("commit", "mirror_sensor")) == ["mercy"]
    make_tenant("broken", ehr={"base_url": "https://ehr.example/fhir"})
    assert partitions(tick("commit", "mirror_sensor")) == ["mercy"], "a tenant without a partition waits for it"


def test_a_lookup_that_is_due_asks_for_a_mirror_run_at_once(
    tick: Callable[..., Any], instance: dg.DagsterInstance, database: Database, make_tenant: MakeTenant
) -> None:
    for tenant, vendor in (("mercy", "epic"), ("other", "generic")):
        make_tenant(tenant, ehr={"vendor": vendor})
        instance.add_dynamic_partitions("tenant", [tenant])

    def sql(statement: str) -> None:
        with psycopg.connect(database.superuser) as connection:
            connection.execute(statement)

    sql(
        "INSERT INTO mirror.sync (tenant, target, resource_type, refreshed_at, changed_at) "
        "SELECT t, 'ehr', 'Patient', now() - interval '1 minute', now() FROM unnest(ARRAY['mercy', 'other']) t"
    )
    sql(
        "INSERT INTO decision.candidate (tenant, candidate_id, record_id, target, source, kind, resource_type, mapping_version, "
        "input_hash, state, give_up_at) SELECT t, gen_random_uuid(), gen_random_uuid(), 'ehr', 's', 'k', 'Observation', 1, '', "
        "'waiting', now() + interval '30 days' FROM unnest(ARRAY['mercy', 'other']) t"
    )
    assert partitions(tick("commit", "mirror_sensor")) == ["other"], "a waiting row alone lists a mirror that is polled"
    sql(
        "INSERT INTO mirror.lookup (tenant, target, key, search, asked_at, needed_until, due_at) "
        "VALUES ('mercy', 'ehr', 'k', 's', now(), now() + interval '7 days', now())"
    )
    assert sorted(filter(None, partitions(tick("commit", "mirror_sensor")))) == ["mercy", "other"]
    sql("UPDATE mirror.lookup SET due_at = now() + interval '15 seconds'")
    assert partitions(tick("commit", "mirror_sensor")) == ["other"]


def test_partitions_and_roles_follow_the_files_of_the_tenants(
    tick: Callable[..., Any], instance: dg.DagsterInstance, database: Database, make_tenant: MakeTenant, home: Path
) -> None:
    make_tenant("stays")
    make_tenant("fresh-one")
    instance.add_dynamic_partitions("tenant", ["stays", "gone"])
    (home / "tenants" / "Mercy Hospital.yaml").write_text("tenant: Mercy Hospital\n")
    (home / "tenants" / "unregistered.yaml").write_text((home / "tenants" / "stays.yaml").read_text())
    add, delete = tick("ingest", "tenant_sensor").dynamic_partitions_requests
    assert (add.partition_keys, delete.partition_keys) == (["fresh-one", "unregistered"], ["gone"])
    with psycopg.connect(database.dsn("ingest")) as connection:
        assert ("unregistered",) in connection.execute("SELECT ops.tenants()").fetchall()
    instance.add_dynamic_partitions("tenant", add.partition_keys)
    instance.delete_dynamic_partition("tenant", "gone")
    assert "left out: Mercy Hospital.yaml" in tick("ingest", "tenant_sensor").skip_reason.skip_message


def test_a_missing_folder_of_tenants_forgets_no_tenant(
    tick: Callable[..., Any], instance: dg.DagsterInstance, home: Path
) -> None:
    instance.add_dynamic_partitions("tenant", ["mercy"])
    (home / "tenants").rename(home / "elsewhere")
    result = tick("ingest", "tenant_sensor")
    assert not result.dynamic_partitions_requests
    assert "there is no folder" in result.skip_reason.skip_message


def test_a_tick_without_its_database_fails_with_one_line(
    tick: Callable[..., Any], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    tick("decide", "decide_sensor")
    monkeypatch.setenv("FHIR_WRITEBACK_DSN", "postgresql://somebody:hunter2@127.0.0.1:9/x")  # pragma: allowlist secret
    module = import_module("fhir_writeback_dagster.decide.sensors")
    with dg.build_sensor_context(instance=instance) as context, pytest.raises(dg.Failure) as caught:
        module.decide_sensor(context)
    assert "[database_unreachable]" in (caught.value.description or "")
    assert "hunter2" not in (caught.value.description or "")
    assert caught.value.__suppress_context__


def test_an_approved_target_is_compared_once_a_day(
    instance: dg.DagsterInstance,
    database: Database,
    make_tenant: MakeTenant,
    layer_environment: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fhir_writeback_dagster.commit.sensors import drift_schedule

    for tenant in ("mercy", "other"):
        make_tenant(tenant)
        instance.add_dynamic_partitions("tenant", [tenant])
    layer_environment("commit")

    def due() -> list[str | None]:
        with dg.build_schedule_context(instance=instance) as context:
            asked = drift_schedule(context)
        asked_for: Any = [] if isinstance(asked, dg.SkipReason) else asked
        return [request.partition_key for request in asked_for]

    assert due() == [], "what nobody approved is compared with nothing"
    with psycopg.connect(database.superuser, autocommit=True) as connection:
        insert = (
            "INSERT INTO ledger.snapshot (tenant, target, body, findings, approved_by, compared_at) "
            "VALUES (%s, 'ehr', '{}', '[]', 'somebody', now() - %s * interval '1 hour')"
        )
        connection.execute(insert, ("mercy", 21))
        connection.execute(insert, ("other", 19))
    assert due() == ["mercy"]
