"""What a run does at its lane, and what of it Dagster may keep."""

from __future__ import annotations

import base64
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from conftest import MakeTenant, OpenLayer
from support import Database

from fhir_writeback_dagster.errors import ConfigError, describe
from fhir_writeback_dagster.orchestration.lanes import LANE_TAG, TENANT_TAG
from fhir_writeback_dagster.store.db import lane, lane_holder, record_event

SECRET_VALUE = "Abernathy-1931-04-17"  # stands for a patient's data


class Report:
    def __init__(self, **counts: int | str) -> None:
        self.counts = counts

    def metadata(self) -> dict[str, int | str]:
        return self.counts


@pytest.fixture
def decide(
    instance: dg.DagsterInstance, make_tenant: MakeTenant, layer_environment: Callable[[str], None], double: Callable[..., None]
) -> Callable[..., dg.ExecuteInProcessResult]:
    make_tenant("mercy")
    layer_environment("decide")

    def run(pipeline: Callable[..., object]) -> dg.ExecuteInProcessResult:
        double("decide.pipeline", decide=pipeline)
        return run_job(instance, "decide", "decide_job")

    return run


def run_job(instance: dg.DagsterInstance, location: str, job: str, tenant: str = "mercy") -> dg.ExecuteInProcessResult:
    from importlib import import_module

    defs = import_module(f"fhir_writeback_dagster.locations.{location}").defs
    if not instance.has_dynamic_partition("tenant", tenant):
        instance.add_dynamic_partitions("tenant", [tenant])
    job_def: dg.JobDefinition = defs.resolve_job_def(job)
    return job_def.execute_in_process(partition_key=tenant, instance=instance, raise_on_error=False)


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    [event] = result.get_asset_materialization_events()
    assert event.partition == "mercy"
    return {key: value.value for key, value in event.materialization.metadata.items()}


def failure_text(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> str:
    [event] = [e for e in result.all_node_events if e.is_step_failure]
    assert event.step_failure_data.error is not None
    assert event.step_failure_data.user_failure_data is not None
    return event.step_failure_data.user_failure_data.description or ""


def test_a_run_holds_its_lane_carries_its_tags_and_shows_its_counts(
    decide: Callable[..., Any], instance: dg.DagsterInstance, database: Database
) -> None:
    holders = []

    def pipeline(context: Any) -> Report:
        with psycopg.connect(database.dsn("commit")) as other:
            holders.append((lane_holder(other, "decide", "mercy"), lane_holder(other, "commit", "mercy"), context.run_id))
        return Report(decided=3, mappings="condition/1")

    result = decide(pipeline)
    assert result.success
    assert metadata(result) == {"decided": 3, "mappings": "condition/1"}
    assert holders == [(result.run_id, None, result.run_id)]
    recorded = instance.get_run_by_id(result.run_id)
    assert recorded is not None
    assert recorded.tags.items() >= {LANE_TAG: "decide", TENANT_TAG: "mercy"}.items()
    with psycopg.connect(database.dsn("decide")) as other:
        assert lane_holder(other, "decide", "mercy") is None


def test_a_second_comer_ends_clean_and_says_who_holds_the_lane(decide: Callable[..., Any], database: Database) -> None:
    holder = "0f9d6a5e-7f3c-4a6e-9d11-0c8b5a2f1e77"
    with lane(database.dsn("decide"), "decide", "mercy", holder):
        result = decide(lambda _: pytest.fail("works in a lane that another run holds"))
    assert result.success
    assert metadata(result) == {"lane_held_by": holder}


def test_an_error_of_ours_is_told_in_full_and_never_retried_by_dagster(
    decide: Callable[..., Any], instance: dg.DagsterInstance
) -> None:
    def pipeline(_: object) -> Report:
        raise ConfigError("bad_mapping", "expected a resource type", where="mappings/fhir/condition/1.yaml:3", fix="fix it")

    result = decide(pipeline)
    assert not result.success
    expected = "mappings/fhir/condition/1.yaml:3: expected a resource type [bad_mapping] — fix it"
    assert failure_text(instance, result) == expected


def test_a_missing_secret_is_told_by_its_reference(decide: Callable[..., Any], instance: dg.DagsterInstance, home: Path) -> None:
    (home / "keys" / "mercy.sealing").unlink()
    result = decide(lambda _: Report())
    assert "file://keys/mercy.sealing" in failure_text(instance, result)
    assert "[secret_missing]" in failure_text(instance, result)


def _raise(error: Exception) -> None:
    raise error


def _group() -> None:
    raise ExceptionGroup("two of two", [ValueError(SECRET_VALUE), TypeError(SECRET_VALUE)])


def _chain() -> None:
    try:
        _raise(KeyError(SECRET_VALUE))
    except KeyError as cause:
        raise RuntimeError(SECRET_VALUE) from cause


def _postgres(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT %s::text::date", (SECRET_VALUE,))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("group", "ValueError at"), ("chain", "RuntimeError at"), ("postgres", "InvalidDatetimeFormat, sqlstate 22007 at psycopg")],
)
def test_what_anything_else_says_never_reaches_dagsters_storage_or_its_logs(
    decide: Callable[..., Any],
    instance: dg.DagsterInstance,
    database: Database,
    everything_kept: Callable[[], bytes],
    capfd: pytest.CaptureFixture[str],
    kind: str,
    expected: str,
) -> None:
    faults: dict[str, Callable[[], object]] = {
        "group": _group,
        "chain": _chain,
        "postgres": lambda: _postgres(database.dsn("decide")),
    }

    def pipeline(context: Any) -> Report:
        faults[kind]()
        return Report()

    result = decide(pipeline)
    assert not result.success
    assert failure_text(instance, result).startswith(expected)
    assert "[unexpected]" in failure_text(instance, result)
    assert result.run_id.encode() in (kept := everything_kept())
    assert SECRET_VALUE.encode() not in kept
    assert SECRET_VALUE not in "".join(capfd.readouterr())


def test_a_run_that_is_stopped_while_it_handles_an_error_keeps_nothing_of_it(
    decide: Callable[..., Any],
    instance: dg.DagsterInstance,
    database: Database,
    everything_kept: Callable[[], bytes],
    capfd: pytest.CaptureFixture[str],
) -> None:
    def pipeline(context: Any) -> Report:
        try:
            _raise(ValueError(SECRET_VALUE))
        except ValueError:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            time.sleep(30)
        return Report()

    assert not decide(pipeline).success
    assert SECRET_VALUE.encode() not in everything_kept()
    assert SECRET_VALUE not in "".join(capfd.readouterr())
    with psycopg.connect(database.dsn("decide")) as other:
        assert lane_holder(other, "decide", "mercy") is None


def test_a_layer_does_not_work_in_anothers_lane(
    decide: Callable[..., Any], instance: dg.DagsterInstance, layer_environment: Callable[[str], None]
) -> None:
    layer_environment("ingest")
    result = decide(lambda _: pytest.fail("decides with the login of ingest"))
    assert "[wrong_layer]" in failure_text(instance, result)


def test_the_place_of_an_unexpected_error_names_ours_and_theirs() -> None:
    with pytest.raises(ValueError, match="base64") as caught:
        base64.b64decode("a", validate=True)
    assert describe(caught.value).startswith("Error at base64:")


def test_the_audit_log_is_observed_by_tenant_through_its_own_login(
    instance: dg.DagsterInstance,
    database: Database,
    make_tenant: MakeTenant,
    open_run: OpenLayer,
    layer_environment: Callable[[str], None],
) -> None:
    for name, events in (("mercy", 3), ("other", 5)):
        tenant = make_tenant(name)
        with open_run("ingest", tenant) as context, context.store.tenant(name) as connection:
            record_event(connection, "extract.landed", ["one"])
            record_event(connection, "row.quarantined", [str(n) for n in range(events)])
    layer_environment("audit")
    result = run_job(instance, "audit", "audit_job")
    assert result.success
    [event] = result.get_asset_observation_events()
    assert event.partition == "mercy"
    counts = {key: value.value for key, value in event.asset_observation_data.asset_observation.metadata.items()}
    assert counts.pop("last_event_at") == pytest.approx(time.time(), abs=60)
    assert counts == {"events": 4, "events/extract.landed": 1, "events/row.quarantined": 3}


@pytest.mark.parametrize(("location", "job"), [("decide", "decide_job"), ("audit", "audit_job"), ("ingest", "ingest_job")])
def test_a_partition_that_is_no_tenant_goes_no_further_than_its_lane(
    instance: dg.DagsterInstance, make_tenant: Any, layer_environment: Callable[[str], None], location: str, job: str
) -> None:
    make_tenant("mercy")
    layer_environment(location)
    for key, code in (("ghost", "unknown_tenant"), ("Jane Doe 1931-04-17", "bad_tenant_id")):
        result = run_job(instance, location, job, key)
        assert not result.success
        assert f"[{code}]" in failure_text(instance, result)
        assert "Jane" not in failure_text(instance, result)
        run = instance.get_run_by_id(result.run_id)
        assert run
        assert TENANT_TAG not in run.tags
