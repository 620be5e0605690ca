"""The two assets of ingest in one run under one lane, and Great Expectations results as checks by tenant."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from conftest import MakeTenant
from support import PROJECT, Database

from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.ingest.quality.expectations import CheckName, CheckResult, check_names
from fhir_writeback_dagster.store.db import lane_holder

RANGE = CheckName("vital_sign_value_range", "vital_sign", "The value is one that somebody can have.", "critical")


class Report:
    def __init__(self, checks: tuple[CheckResult, ...] = (), **counts: int | str) -> None:
        self.checks, self.counts = checks, counts

    def metadata(self) -> dict[str, int | str]:
        return self.counts


@pytest.fixture
def ingest(
    instance: dg.DagsterInstance,
    make_tenant: MakeTenant,
    layer_environment: Callable[[str], None],
    double: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., dg.ExecuteInProcessResult]:
    monkeypatch.setenv("FHIR_WRITEBACK_HOME", str(PROJECT))
    defs = import_module("fhir_writeback_dagster.locations.ingest").defs
    layer_environment("ingest")
    instance.add_dynamic_partitions("tenant", ["mercy", "other"])
    for tenant in ("mercy", "other"):
        make_tenant(tenant)

    def run(tenant: str = "mercy", only: list[str] | None = None, **functions: Any) -> dg.ExecuteInProcessResult:
        double("ingest.pipeline", **functions)
        job: dg.JobDefinition = defs.resolve_job_def("ingest_job")
        return job.execute_in_process(
            partition_key=tenant,
            instance=instance,
            raise_on_error=False,
            asset_selection=[dg.AssetKey(key) for key in only] if only else None,
        )

    return run


@pytest.fixture
def three_checks() -> list[CheckName]:
    return list(check_names(PROJECT / "expectations")[:3])


def counts(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, object]]:
    return {
        event.materialization.asset_key.to_user_string(): {k: v.value for k, v in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
    }


def test_both_assets_are_made_in_one_run_that_never_lets_go_of_the_lane(ingest: Callable[..., Any], database: Database) -> None:
    backends = []

    def look(run: Any) -> Report:
        with psycopg.connect(database.dsn("ingest")) as other:
            rows = other.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", (f"fw ingest {run.run_id}",))
            backends.append((lane_holder(other, "ingest", "mercy"), rows.fetchall()))
        return Report(rows=len(backends))

    result = ingest(land=look, normalise=look)
    assert counts(result) == {"scraped_extracts": {"rows": 1}, "canonical_records": {"rows": 2}}
    assert backends[0] == backends[1]
    assert backends[0][0] == result.run_id


def test_one_of_the_two_can_be_made_alone(ingest: Callable[..., Any]) -> None:
    def never(_: object) -> Report:
        return pytest.fail("was not selected")

    assert counts(ingest(only=["canonical_records"], land=never, normalise=lambda _: Report(rows=1))) == {
        "canonical_records": {"rows": 1}
    }
    assert counts(ingest(only=["scraped_extracts"], land=lambda _: Report(files=2), normalise=never)) == {
        "scraped_extracts": {"files": 2}
    }


def test_what_landed_is_recorded_also_where_reading_it_fails(ingest: Callable[..., Any]) -> None:
    def fails(_: object) -> Report:
        raise ConfigError("bad_contract", "expected a time zone", where="mappings/sources/lab/1.yaml:4")

    result = ingest(land=lambda _: Report(landed=3), normalise=fails)
    assert not result.success
    assert counts(result) == {"scraped_extracts": {"landed": 3}}


def test_an_expectation_is_a_check_of_its_tenant_with_counts_and_severity(
    ingest: Callable[..., Any], instance: dg.DagsterInstance, three_checks: list[CheckName]
) -> None:
    failing, warned, unseen = three_checks
    results = (
        CheckResult(failing.name, failing.kind, passed=False, severity="critical", evaluated=40, failed=2),
        CheckResult(warned.name, warned.kind, passed=False, severity="warning", evaluated=40, failed=1),
        CheckResult(unseen.name, unseen.kind, passed=True, severity="critical", evaluated=0, failed=0),
        CheckResult("added_since", failing.kind, passed=True, severity="critical", evaluated=40, failed=0),
    )
    result = ingest(land=lambda _: Report(), normalise=lambda _: Report(results))
    assert result.success, "a failing check is for people to see: the gate is in the database"
    evaluations = {e.check_name: e for e in result.get_asset_check_evaluations()}
    assert set(evaluations) == {failing.name, warned.name}
    assert [evaluations[c.name].severity.value for c in (failing, warned)] == ["ERROR", "WARN"]
    assert {k: v.value for k, v in evaluations[failing.name].metadata.items()} == {"rows_evaluated": 40, "rows_failed": 2}
    assert {e.partition for e in evaluations.values()} == {"mercy"}

    clean = (CheckResult(failing.name, failing.kind, passed=True, severity="critical", evaluated=9, failed=0),)
    ingest("other", land=lambda _: Report(), normalise=lambda _: Report(clean))
    key = dg.AssetCheckKey(dg.AssetKey("canonical_records"), failing.name)
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
    assert [(record.partition, record.status.value) for record in history] == [("other", "SUCCEEDED"), ("mercy", "FAILED")]


def test_nothing_passes_between_the_assets_but_the_database(ingest: Callable[..., Any], instance: dg.DagsterInstance) -> None:
    result = ingest(land=lambda _: Report(), normalise=lambda _: Report())
    assert result.success
    kept = [path for path in Path(instance.storage_directory()).rglob("*") if path.is_file()]
    assert [path for path in kept if path.parent.name != "compute_logs"] == []
