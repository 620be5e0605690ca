"""A tenant with a backlog of days and fewer places for runs than tenants: Dagster's own queue, as configured, and our sensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import dagster as dg
import psycopg
import pytest
import yaml
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from support import PROJECT, Database

SMALL = [f"small-{n}" for n in range(5)]
TENANTS = ["whale", *SMALL]
SLOTS = 2
ROUNDS = 12
"""A round is a minute: whoever got a place works for so long and hands over (`commit.pipeline`)."""
ORIGIN = RemoteJobOrigin(RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin(host="127.0.0.1", port=9), "nobody"), "job")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """The coordinator of dagster.yaml with fewer places."""
    shipped = yaml.safe_load((PROJECT / "dagster.yaml").read_text())["run_coordinator"]
    config = {**shipped, "config": {**shipped["config"], "max_concurrent_runs": SLOTS}}
    with dg.instance_for_test(overrides={"run_coordinator": config}) as made:
        yield made


@pytest.fixture
def hospitals(make_tenant: Any, instance: dg.DagsterInstance, layer_environment: Any) -> None:
    for tenant in TENANTS:
        make_tenant(tenant)
    instance.add_dynamic_partitions("tenant", TENANTS)
    layer_environment("commit")


def waits(database: Database, tenant: str, items: int, since: str) -> None:
    with psycopg.connect(database.superuser) as connection:
        connection.execute(
            "INSERT INTO decision.outbox (tenant, candidate_id, since) "
            "SELECT %s, gen_random_uuid(), now() - %s::interval FROM generate_series(1, %s)",
            (tenant, since, items),
        )


def a_turn(database: Database, tenant: str) -> None:
    """What a run of a minute gets done."""
    with psycopg.connect(database.superuser) as connection:
        connection.execute(
            "DELETE FROM decision.outbox WHERE tenant = %s AND candidate_id IN "
            "(SELECT candidate_id FROM decision.outbox WHERE tenant = %s ORDER BY since LIMIT 100)",
            (tenant, tenant),
        )


def play(instance: dg.DagsterInstance, database: Database, daemon: QueuedRunCoordinatorDaemon) -> list[str]:
    """One round: the sensor asks, the queue chooses, the chosen work. Returns the tenants that got a place."""
    sensor = import_module("fhir_writeback_dagster.commit.sensors").commit_sensor
    with dg.build_sensor_context(instance=instance) as context:
        requests = sensor(context).run_requests or []
    for request in requests:
        instance.create_run_for_job(_job(), tags=request.tags, status=dg.DagsterRunStatus.QUEUED, remote_job_origin=ORIGIN)
    chosen = daemon._get_runs_to_dequeue(instance, instance.get_concurrency_config(), None)
    names = []
    for run in chosen:
        names.append(run.tags["fhir_writeback/tenant"])
        a_turn(database, names[-1])
        instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, run.job_name), run.run_id)
    return names


def _job() -> dg.JobDefinition:
    @dg.op
    def nothing() -> None: ...

    @dg.job
    def job() -> None:
        nothing()

    return job


def test_a_backlog_of_days_takes_no_more_than_its_turn(hospitals: None, instance: dg.DagsterInstance, database: Database) -> None:
    waits(database, "whale", 100_000, "3 days")
    daemon, turns = QueuedRunCoordinatorDaemon(interval_seconds=1), Counter[str]()
    for number in range(ROUNDS):
        for tenant in SMALL:
            waits(database, tenant, 1, "0 s")
        got = play(instance, database, daemon)
        assert len(got) == SLOTS, "no place stays empty"
        turns.update(got)
        assert number < len(TENANTS) // SLOTS - 1 or set(turns) == set(TENANTS), "everybody within the first turns of all"
    assert set(turns.values()) == {ROUNDS * SLOTS // len(TENANTS)}, turns


def test_who_comes_new_is_next_but_for_those_who_wait_already(
    hospitals: None, instance: dg.DagsterInstance, database: Database
) -> None:
    waits(database, "whale", 100_000, "3 days")
    daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)
    for _ in range(5):
        assert play(instance, database, daemon) == ["whale"], "alone it is never kept waiting"
    waits(database, "small-0", 1, "0 s")
    assert "small-0" in play(instance, database, daemon)
