"""The shipped services as they run for a user: daemon, webserver and four code servers, each with its own environment.

Only the layers' pipelines are doubles (``doubles/``): they stay inside until a test lets them go on, so that what runs beside
what is seen and not guessed from times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import psutil
import psycopg
import pytest
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from support import PROJECT, make_home, write_tenant

from fhir_writeback_dagster.config.settings import LAYERS
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.ops import probe
from fhir_writeback_dagster.ops.configuration import ANY_PORT, load_configuration
from fhir_writeback_dagster.ops.environment import write_layer_file
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.running import Running, running
from fhir_writeback_dagster.ops.sockets import socket_of
from fhir_writeback_dagster.orchestration.lanes import LANE_TAG, TENANT_TAG

pytestmark = pytest.mark.timeout(600)

PATIENT_VALUE = "Zebediah-1931-04-17"  # stands for a patient's data
EHR_KEY = "private-key-of-mercy"
IN_ORDER = True
"""The tests tell one story of one running world, which takes a minute to start: it begins fresh, and a location dies last."""
T = TypeVar("T")
PATIENCE_S = 180


class World:
    """The running services, and the strings that tests pull at the doubles."""

    def __init__(self, home: Path, up: Running, instance: dg.DagsterInstance, doubles: Path) -> None:
        self.home, self.up, self.instance, self.doubles = home, up, instance, doubles

    def hold(self, lane: str, tenant: str) -> None:
        (self.doubles / f"hold-{lane}-{tenant}").touch()

    def let_go(self, lane: str, tenant: str) -> None:
        (self.doubles / f"hold-{lane}-{tenant}").unlink(missing_ok=True)

    def journal(self, lane: str, tenant: str) -> list[dict[str, Any]]:
        path = self.doubles / "journal"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if (line["lane"], line["tenant"]) == (lane, tenant)]

    def entered(self, lane: str, tenant: str) -> dict[str, Any]:
        """The latest entry of the lane, once there is one that was not left."""

        def inside() -> dict[str, Any] | None:
            lines = self.journal(lane, tenant)
            inside = lines and lines[-1]["what"] == "enter" and psutil.pid_exists(lines[-1]["pid"])  # else it broke off
            return lines[-1] if inside else None

        return self.wait(f"a run in {lane} of {tenant}", inside)

    def queue(self, table: str, column: str, tenant: str) -> None:
        assert self.up.database.postgres
        with psycopg.connect(self.up.database.postgres.superuser + "fhir_writeback") as connection:
            connection.execute(f"INSERT INTO {table} (tenant, {column}) VALUES (%s, %s)", (tenant, new_id()))

    def runs(self, lane: str, tenant: str) -> list[dg.DagsterRun]:
        return list(self.instance.get_runs(dg.RunsFilter(tags={LANE_TAG: lane, TENANT_TAG: tenant})))

    def graphql(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            self.up.web_url + "/graphql", body, {"Content-Type": "application/json"} | self.up.web_headers()
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            said = json.load(answer)
        assert "errors" not in said, said
        return said["data"]

    def wait(self, what: str, look: Callable[[], T | None], patience_s: float = PATIENCE_S) -> T:
        deadline = time.monotonic() + patience_s
        while not (found := look()):
            assert time.monotonic() < deadline, f"waited {patience_s} s for {what}"
            time.sleep(0.2)
        return found

    def finished(self, run_id: str) -> dg.DagsterRun:
        def ended() -> dg.DagsterRun | None:
            run = self.instance.get_run_by_id(run_id)
            return run if run and run.is_finished else None

        return self.wait(f"the end of run {run_id}", ended)

    def materialized(self, run_id: str) -> dict[str, object]:
        [record] = self.instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
        return (
            {key: value.value for key, value in record.asset_materialization.metadata.items()}
            if record.asset_materialization
            else {}
        )


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = make_home(tmp_path_factory.mktemp("live") / "")
    doubles = tmp_path_factory.mktemp("doubles")
    state = StateFolder(home)
    for layer in LAYERS:
        own = {"PYTHONPATH": str(Path(__file__).with_name("doubles")), "DOUBLES": str(doubles)}
        write_layer_file(state, layer, own | ({"EHR_KEY": EHR_KEY} if layer == "commit" else {}))
    for name in ("mercy", "other"):
        write_tenant(home, name, {"ehr": {"auth": {"type": "smart_backend", "private_key": "env:EHR_KEY"}}})
    config = load_configuration(home, {"PATH": os.environ["PATH"]}, ANY_PORT)
    with running(config, lambda _: None, durable=False) as up, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FHIR_WRITEBACK_DSN_DAGSTER", up.dsns.of("dagster"))
        with dg.DagsterInstance.from_config(str(up.services.folder)) as instance:
            yield World(home, up, instance, doubles)


@pytest.fixture
def world(installation: World) -> World:
    """The installation at rest, whatever the test before held, broke or queued."""
    for left in [*installation.doubles.glob("hold-*"), *installation.doubles.glob("fail-*")]:
        left.unlink()
    unfinished = dg.RunsFilter(statuses=[status for status in dg.DagsterRunStatus if status not in FINISHED_STATUSES])

    def at_rest() -> bool:
        lanes = {run.tags.get(LANE_TAG) for run in installation.instance.get_runs(unfinished)}
        return not lanes & {"ingest", "decide", "commit"}

    installation.wait("the end of the runs of the test before", at_rest)
    return installation


LAUNCH = """mutation ($job: ExecutionParams!) { launchPipelineExecution(executionParams: $job) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
BACKFILL = """mutation ($what: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $what) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
PARTITIONS = "{ assetNodes { assetKey { path } repository { location { name } } partitionKeys } }"


def launch_from_the_ui(world: World, location: str, asset: str, tenant: str) -> str:
    selector = {
        "repositoryLocationName": location,
        "repositoryName": "__repository__",
        "jobName": "__ASSET_JOB",
        "assetSelection": [{"path": [asset]}],
        "assetCheckSelection": [],
    }
    tags = [{"key": "dagster/partition", "value": tenant}]
    said = world.graphql(LAUNCH, job={"selector": selector, "runConfigData": "{}", "executionMetadata": {"tags": tags}})
    run_id: str = said["launchPipelineExecution"]["run"]["runId"]
    return run_id


def backfill(world: World, asset: str, tenant: str) -> str:
    what = {"assetSelection": [{"path": [asset]}], "partitionNames": [tenant], "tags": []}
    said = world.graphql(BACKFILL, what=what)
    backfill_id: str = said["launchPartitionBackfill"]["backfillId"]

    def its_run() -> str | None:
        runs = world.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill_id}))
        return runs[0].run_id if runs else None

    return world.wait("the run of a backfill", its_run)


def test_commit_runs_beside_decide_and_no_lane_twice_from_sensor_ui_or_backfill(world: World) -> None:
    before = {run.run_id for run in world.runs("commit", "mercy")}
    for lane in ("decide", "commit"):
        world.hold(lane, "mercy")
    world.queue("canonical.outbox", "record_id", "mercy")
    world.queue("decision.outbox", "candidate_id", "mercy")
    deciding, committing = world.entered("decide", "mercy"), world.entered("commit", "mercy")
    assert deciding["pid"] != committing["pid"]

    for second in (
        launch_from_the_ui(world, "commit", "committed_resources", "mercy"),
        backfill(world, "committed_resources", "mercy"),
    ):
        assert world.finished(second).status.value == "SUCCESS"
        assert world.materialized(second) == {"lane_held_by": committing["run"]}
    assert world.finished(launch_from_the_ui(world, "decide", "write_candidates", "mercy")).status.value == "SUCCESS"
    asked_by_sensor = {run.run_id for run in world.runs("commit", "mercy") if "dagster/sensor_name" in run.tags}
    assert asked_by_sensor - before == {committing["run"]}

    for lane, entry in (("decide", deciding), ("commit", committing)):
        assert world.entered(lane, "mercy")["run"] == entry["run"], "it stayed inside alone all the time"
        world.let_go(lane, "mercy")
        assert world.finished(entry["run"]).status.value == "SUCCESS"
        assert world.materialized(entry["run"]) == {"done": 1}


def test_a_run_from_the_ui_keeps_the_sensor_from_asking_for_another(world: World) -> None:
    before = {run.run_id for run in world.runs("decide", "other")}
    world.hold("decide", "other")
    mine = launch_from_the_ui(world, "decide", "write_candidates", "other")
    assert world.entered("decide", "other")["run"] == mine
    world.queue("canonical.outbox", "record_id", "other")

    def told() -> bool:
        ticks = _ticks(world, "decide_sensor")
        return any(f"run {mine[:8]} " in (tick.skip_reason or "") for tick in ticks)

    world.wait("a tick that waits for the run of a person", told)
    assert {run.run_id for run in world.runs("decide", "other")} - before == {mine}
    world.let_go("decide", "other")
    assert world.finished(mine).status.value == "SUCCESS"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_only_a_run_of_commit_sees_an_ehr_credential_and_each_run_only_its_own_login(world: World) -> None:
    for lane in ("ingest", "decide", "commit", "mirror"):
        world.hold(lane, "mercy")
    (world.home / "landing" / "mercy" / "synthea_csv" / "conditions.csv").write_text("START\n")
    world.queue("canonical.outbox", "record_id", "mercy")
    world.queue("decision.outbox", "candidate_id", "mercy")
    launch_from_the_ui(world, "commit", "ehr_mirror", "mercy")
    dsns = {layer: world.up.dsns.of(layer) for layer in LAYERS}
    for lane, layer in (("ingest", "ingest"), ("decide", "decide"), ("commit", "commit"), ("mirror", "commit")):
        entry = world.entered(lane, "mercy")
        environment = Path(f"/proc/{entry['pid']}/environ").read_text()
        assert (EHR_KEY in environment) == (layer == "commit"), lane
        assert entry["ehr_key"] == ("resolved" if layer == "commit" else "secret_missing"), lane
        assert {other for other, dsn in dsns.items() if dsn in environment} == {layer}, lane
    (world.home / "landing" / "mercy" / "synthea_csv" / "conditions.csv").unlink()
    for lane in ("ingest", "decide", "commit", "mirror"):
        world.let_go(lane, "mercy")
        assert world.finished(world.journal(lane, "mercy")[-1]["run"]).status.value == "SUCCESS"


def test_what_an_exception_says_is_nowhere_in_dagster(world: World) -> None:
    fault = world.doubles / "fail-decide-other"
    fault.write_text(PATIENT_VALUE)
    run = launch_from_the_ui(world, "decide", "write_candidates", "other")
    assert world.finished(run).status.value == "FAILURE"
    fault.unlink()
    storage = b"\n".join(_storage(world.up.dsns.of("dagster")))
    assert run.encode() in storage
    assert b"ValueError at fhir_writeback_dagster.decide.pipeline:" in storage
    assert PATIENT_VALUE.encode() not in storage
    logs = b"".join(path.read_bytes() for path in (world.home / ".fhir-writeback").rglob("*") if _is_text(path))
    assert b"ValueError at fhir_writeback_dagster.decide.pipeline:" in logs, "looks where the run writes"
    assert PATIENT_VALUE.encode() not in logs


def test_a_runs_log_lines_are_found_by_its_id_on_its_page_and_in_the_layers_log(world: World) -> None:
    launched = launch_from_the_ui(world, "decide", "write_candidates", "other")
    assert world.finished(launched).status.value == "SUCCESS"
    run = world.journal("decide", "other")[-1]["run"]  # it, or the sensor's that had the lane
    assert world.finished(run).status.value == "SUCCESS"
    page = [entry.user_message for entry in world.instance.all_logs(run)]
    assert any("a line of the pipeline" in line and "code=of_decide" in line for line in page)
    log = (world.home / ".fhir-writeback" / "logs" / "decide-location.log").read_text().splitlines()
    lines = [json.loads(line) for line in log if line.startswith("{") and run in line]
    [line] = [line for line in lines if line["event"] == "a line of the pipeline"]
    assert line.items() >= {"tenant": "other", "lane": "decide", "layer": "decide", "dropped": ["patient"]}.items()
    assert PATIENT_VALUE not in "".join(page) + "".join(log)


def test_a_new_tenant_is_a_partition_everywhere_and_is_worked_on_without_a_restart(world: World) -> None:
    before = dict(world.up.services.pids)
    write_tenant(world.home, "newcomer")

    def everywhere() -> bool:
        keys = {
            (node["repository"]["location"]["name"], *node["assetKey"]["path"]): node["partitionKeys"] for node in _nodes(world)
        }
        assert len(keys) == 7
        return all("newcomer" in found for found in keys.values())

    world.wait("the partition of a new tenant in every location", everywhere, 60)
    world.wait("its first mirror", lambda: any(run.is_success for run in world.runs("mirror", "newcomer")))
    (world.home / "tenants" / "newcomer.yaml").unlink()
    world.wait("its end", lambda: not any("newcomer" in node["partitionKeys"] for node in _nodes(world)), 60)
    assert world.up.services.pids == before


def test_dagsters_own_command_validates_the_shipped_workspace(world: World) -> None:
    done = _dagster("definitions", "validate", "-w", str(PROJECT / "workspace.yaml"), environment=world.up.services.environment())
    assert done.returncode == 0, done.stderr
    for location in ("ingest", "decide", "commit", "audit"):
        assert f"Validation successful for code location {location}." in done.stderr + done.stdout


def test_dagsters_own_command_without_our_environment_says_what_is_missing(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "DAGSTER_HOME": str(PROJECT)}
    done = _dagster("definitions", "validate", "-w", str(PROJECT / "workspace.yaml"), environment=environment)
    assert done.returncode != 0
    assert "FHIR_WRITEBACK_DSN_DAGSTER" in done.stderr
    assert "fhir-writeback exec" in done.stderr
    assert "Traceback" not in done.stderr


def _dagster(*arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dagster", *arguments]
    return subprocess.run(command, env=dict(environment), cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)


def _nodes(world: World) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = world.graphql(PARTITIONS)["assetNodes"]
    return nodes


def _ticks(world: World, sensor: str) -> list[Any]:
    state = next(s for s in world.instance.all_instigator_state() if s.instigator_name == sensor)
    return list(world.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=20))


def _storage(dsn: str) -> Iterator[bytes]:
    """Every row of every table of Dagster's database; what is stored compressed is unpacked."""
    with psycopg.connect(dsn) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table[0]}"').fetchall():
                for value in row:
                    yield _unpacked(value) if isinstance(value, bytes) else str(value).encode()


def _unpacked(value: bytes) -> bytes:
    try:
        return zlib.decompress(value)
    except zlib.error:
        return value


def _is_text(path: Path) -> bool:
    return path.is_file() and path.suffix in {".log", ".yaml", ".json", ""} and "postgres" not in path.parts


@pytest.mark.skipif(sys.platform != "linux", reason="runs are forked on Linux only")
@pytest.mark.parametrize(
    ("lane", "asset"), [("ingest", "canonical_records"), ("mirror", "ehr_mirror"), ("decide", "write_candidates")]
)
def test_a_run_is_a_fork_of_a_process_that_has_one_thread(world: World, lane: str, asset: str) -> None:
    world.hold(lane, "other")
    run = launch_from_the_ui(world, "commit" if lane == "mirror" else lane, asset, "other")
    entry = world.wait("its entry", lambda: next((line for line in world.journal(lane, "other") if line["run"] == run), None))
    template = psutil.Process(entry["pid"]).parent()
    assert template
    assert "forkserver" in " ".join(template.cmdline())
    assert template.num_threads() == 1, "a fork could stop in a lock of another thread"
    world.let_go(lane, "other")
    assert world.finished(run).status.value == "SUCCESS"


@pytest.mark.skipif(sys.platform != "linux", reason="finds the location as the parent of the template that runs are forked from")
def test_a_location_that_ends_ends_its_runs(world: World) -> None:
    world.hold("ingest", "other")
    run = launch_from_the_ui(world, "ingest", "canonical_records", "other")
    entry = world.wait("its entry", lambda: next((line for line in world.journal("ingest", "other") if line["run"] == run), None))
    process = psutil.Process(entry["pid"])
    template = process.parent()
    location = template.parent() if template else None
    assert location
    location.terminate()
    psutil.wait_procs([process, location], timeout=30)
    assert not process.is_running()
    assert not location.is_running()
    world.let_go("ingest", "other")

    def back() -> bool:
        world.up.tend()
        return probe.code_location(socket_of(world.home, "ingest")) and len(_nodes(world)) == 7

    world.wait("it is started again, and Dagster has found it", back)
