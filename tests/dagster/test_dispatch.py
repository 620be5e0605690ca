"""When a tick asks for a run, and when it waits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from conftest import MakeTenant
from dagster import DagsterRunStatus as Status
from support import Database

from fhir_writeback_dagster.commit.sensors import MirrorAge, is_old, is_wanted
from fhir_writeback_dagster.config.settings import Settings
from fhir_writeback_dagster.orchestration.dispatch import PastRun, ask, reason_to_wait
from fhir_writeback_dagster.orchestration.lanes import LANE_TAG, TENANT_TAG, WORK_TAG
from fhir_writeback_dagster.orchestration.partitions import changes, register_tenants, sync_tenants
from fhir_writeback_dagster.store.db import lane

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DURATION = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def ago(text: str) -> datetime:
    return NOW - timedelta(seconds=int(text[:-1]) * DURATION[text[-1]])


def work(*tenants: str) -> dict[str, str | None]:
    return {tenant: f"7.{tenant}" for tenant in tenants}


def runs(*history: tuple[Status, str]) -> list[PastRun]:
    return [PastRun(f"{n}" * 8, status, ago(since)) for n, (status, since) in enumerate(history)]


@pytest.mark.parametrize(
    ("history", "holder", "waits_for"),
    [
        ([], None, None),
        ([(Status.SUCCESS, "1s")], None, None),
        ([(Status.QUEUED, "1h")], None, "queued"),
        ([(Status.STARTING, "20s")], None, "starting"),
        ([(Status.STARTED, "10s")], None, "started"),
        ([(Status.STARTED, "1h")], "0" * 8, "holds the lane"),
        ([(Status.SUCCESS, "1s"), (Status.STARTED, "10s")], None, "started"),
        ([(Status.SUCCESS, "1s")], "5" * 8, "run 55555555 holds the lane"),
        ([(Status.STARTED, "61s")], None, None),
        ([(Status.STARTED, "61s"), (Status.QUEUED, "2m")], None, "queued"),
        ([(Status.FAILURE, "9s")], None, "1 in a row came to nothing, the next in 1 s"),
        ([(Status.FAILURE, "10s")], None, None),
        ([(Status.FAILURE, "19s"), (Status.CANCELED, "60s")], None, "2 in a row came to nothing, the next in 1 s"),
        ([(Status.FAILURE, "20s"), (Status.FAILURE, "60s")], None, None),
        ([(Status.FAILURE, "9m")] + [(Status.FAILURE, "1h")] * 11, None, "12 in a row came to nothing, the next in 60 s"),
        ([(Status.FAILURE, "11m")] + [(Status.FAILURE, "1h")] * 11, None, None),
        ([(Status.SUCCESS, "1s"), (Status.FAILURE, "2s")], None, None),
    ],
)
def test_a_lane_waits_for_its_unfinished_run_and_longer_after_each_failure(
    history: list[tuple[Status, str]], holder: str | None, waits_for: str | None
) -> None:
    reason = reason_to_wait(runs(*history), NOW, lambda: holder)
    if waits_for is None:
        assert reason is None
    else:
        assert reason is not None
        assert waits_for in reason


def test_a_run_that_left_the_same_work_counts_as_one_that_failed() -> None:
    left = [PastRun("1" * 8, Status.SUCCESS, ago("15s"), "7.extract"), PastRun("2" * 8, Status.SUCCESS, ago("9m"), "7.extract")]
    reason = reason_to_wait(left, NOW, lambda: None, "7.extract")
    assert reason == "2 in a row came to nothing, the next in 5 s"
    assert reason_to_wait(left, NOW, lambda: None, "7.another") is None
    assert reason_to_wait(left, NOW, lambda: None) is None


@pytest.mark.parametrize(
    ("refreshed", "waiting_for", "wanted", "old"),
    [
        (None, None, True, True),
        ("4m", None, False, False),
        ("5m", None, False, True),
        ("14s", "1s", False, False),
        ("15s", "1s", True, False),
        ("15s", "4m", False, False),
        ("60s", "4m", True, False),
        ("4m", "20d", False, False),
        ("5m", "20d", True, True),
    ],
)
def test_a_mirror_is_read_again_when_old_and_sooner_for_one_who_began_to_wait(
    make_tenant: MakeTenant, refreshed: str | None, waiting_for: str | None, wanted: bool, old: bool
) -> None:
    tenant = make_tenant("mercy", ehr={"mirror_every": "5m"}, waiting_ttl="30d")
    age = MirrorAge(ago(refreshed) if refreshed else None, ago(waiting_for) + tenant.waiting_ttl if waiting_for else None)
    assert (is_wanted(age, tenant, NOW), is_old(age, tenant, NOW)) == (wanted, old)


def test_partition_keys_become_the_tenants_that_have_a_file(instance: dg.DagsterInstance) -> None:
    assert changes(["a", "b"], ["b", "c"]) == (["c"], ["a"])
    assert sync_tenants(instance, ["b", "a"]) == (["a", "b"], [])
    assert sync_tenants(instance, ["b", "c"]) == (["c"], ["a"])
    assert sync_tenants(instance, ["b", "c"]) == ([], [])
    assert sorted(instance.get_dynamic_partitions("tenant")) == ["b", "c"]


def test_a_tenant_is_registered_once(database: Database) -> None:
    with psycopg.connect(database.dsn("ingest"), autocommit=True) as connection:
        assert register_tenants(connection, ["new-one", "another"]) == ["another", "new-one"]
        assert register_tenants(connection, ["new-one"]) == []


def test_a_bad_tenant_file_is_named_and_the_others_go_on(
    instance: dg.DagsterInstance, database: Database, make_tenant: MakeTenant, home: Path
) -> None:
    for name in ("bad", "good", "new", "busy"):
        make_tenant(name)
    (home / "tenants" / "bad.yaml").write_text("tenant: bad\ntime_zone: Mars/Olympus\n")
    sync_tenants(instance, ["bad", "good", "busy"])
    with psycopg.connect(database.dsn("decide"), autocommit=True) as connection:
        settings = Settings(home, "decide", database.dsn("decide"))
        instance.create_run_for_job(_job(), tags={LANE_TAG: "decide", TENANT_TAG: "busy"}, status=dg.DagsterRunStatus.STARTING)
        asked = ask(instance, connection, settings, "decide", work("bad", "good", "gone", "new", "busy"))
    assert [(r.partition_key, r.run_key, r.tags) for r in asked.requests] == [
        ("good", None, {LANE_TAG: "decide", TENANT_TAG: "good", WORK_TAG: "7.good"})
    ]
    notes = dict(note.split(": ", 1) for note in asked.notes)
    assert "bad.yaml:2" in notes["bad"]
    assert "[bad_config]" in notes["bad"]
    assert "[unknown_tenant]" in notes["gone"]
    assert "partition is not there yet" in notes["new"]
    assert notes["busy"].endswith("is starting")


def test_a_mended_tenant_file_is_read_again(
    instance: dg.DagsterInstance, database: Database, make_tenant: MakeTenant, home: Path
) -> None:
    make_tenant("mercy")
    sync_tenants(instance, ["mercy"])
    file = home / "tenants" / "mercy.yaml"
    good = file.read_text()
    settings = Settings(home, "decide", database.dsn("decide"))
    with psycopg.connect(database.dsn("decide"), autocommit=True) as connection:
        for text, requests in ((good, 1), (good + "typo: 1\n", 0), (good, 1)):
            file.write_text(text)
            assert len(ask(instance, connection, settings, "decide", work("mercy")).requests) == requests


def test_a_run_whose_process_is_gone_stops_nobody(
    instance: dg.DagsterInstance, database: Database, make_tenant: MakeTenant, home: Path
) -> None:
    make_tenant("mercy")
    sync_tenants(instance, ["mercy"])
    run = instance.create_run_for_job(_job(), tags={LANE_TAG: "commit", TENANT_TAG: "mercy"}, status=dg.DagsterRunStatus.STARTED)
    settings = Settings(home, "commit", database.dsn("commit"))
    later = datetime.now(UTC) + timedelta(minutes=5)
    with psycopg.connect(database.dsn("commit"), autocommit=True) as connection:
        with lane(database.dsn("commit"), "commit", "mercy", run.run_id):
            assert ask(instance, connection, settings, "commit", work("mercy"), later).requests == []
        assert len(ask(instance, connection, settings, "commit", work("mercy"), later).requests) == 1


def _job() -> dg.JobDefinition:
    @dg.op
    def nothing() -> None: ...

    @dg.job
    def some_job() -> None:
        nothing()

    return some_job
