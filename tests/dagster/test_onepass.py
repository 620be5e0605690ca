"""`python -m fhir_writeback_dagster.ops.onepass`: one lane of one tenant, recorded in the Dagster instance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from conftest import MakeTenant, OpenLayer
from support import Database

from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.ops.onepass import main
from fhir_writeback_dagster.orchestration.lanes import LANE_TAG, TENANT_TAG
from fhir_writeback_dagster.store.db import lane, lane_holder, record_event

PIPELINE_FAULT = "mappings/fhir/condition/1.yaml:3: expected a resource type [bad_mapping] — fix it"


class Report:
    def __init__(self, **counts: int) -> None:
        self.counts = counts

    def metadata(self) -> dict[str, int]:
        return self.counts


@pytest.fixture
def dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "dagster"
    folder.mkdir()
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    return folder


@pytest.fixture
def decide(
    dagster_home: Path, make_tenant: MakeTenant, layer_environment: Callable[[str], None], double: Callable[..., None]
) -> Callable[..., int]:
    make_tenant("mercy")
    layer_environment("decide")

    def run(pipeline: Callable[..., object]) -> int:
        double("decide.pipeline", decide=pipeline)
        return main(["decide", "mercy"])

    return run


def test_a_pass_prints_its_counts_and_is_recorded_with_its_tags(
    decide: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert decide(lambda _: Report(decided=7)) == 0
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    assert said | {"run_id": ""} == {
        "ok": True,
        "lane": "decide",
        "tenant": "mercy",
        "run_id": "",
        "error": None,
        "assets": {"write_candidates": {"decided": 7}},
    }
    assert printed.err == ""
    with dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(said["run_id"])
        assert run is not None
        assert run.status.value == "SUCCESS"
        assert run.tags.items() >= {LANE_TAG: "decide", TENANT_TAG: "mercy", "dagster/partition": "mercy"}.items()


def test_a_pass_that_fails_ends_with_the_line_and_code_1(decide: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    def pipeline(_: object) -> Report:
        raise ConfigError("bad_mapping", "expected a resource type", where="mappings/fhir/condition/1.yaml:3", fix="fix it")

    assert decide(pipeline) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"] == PIPELINE_FAULT
    *logged, last = printed.err.splitlines()
    assert last == f"error: {PIPELINE_FAULT}"
    assert [json.loads(line)["code"] for line in logged] == ["bad_mapping"]


def test_a_pass_whose_lane_is_held_ends_clean(
    decide: Callable[..., Any], database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    with lane(database.dsn("decide"), "decide", "mercy", "somebody"):
        assert decide(lambda _: pytest.fail("works in a held lane")) == 0
    assert json.loads(capsys.readouterr().out)["assets"] == {"write_candidates": {"lane_held_by": "somebody"}}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], "usage"),
        (["fly", "mercy"], "usage"),
        (["decide", "mercy", "more"], "usage"),
        (["decide", "nobody"], "unknown_tenant"),
        (["decide", "../mercy"], "bad_tenant_id"),
    ],
)
def test_a_wrong_call_is_told_in_one_line(
    decide: Callable[..., Any], capsys: pytest.CaptureFixture[str], arguments: list[str], code: str
) -> None:
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert f"[{code}]" in printed.err
    assert printed.err.count("\n") == 1


def test_a_pass_without_dagsters_home_says_so(
    layer_environment: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layer_environment("decide")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert main(["decide", "mercy"]) == 1
    assert "[no_dagster_home]" in capsys.readouterr().err


def test_as_a_process_of_its_own_it_says_nothing_but_its_line(
    dagster_home: Path, layer_environment: Callable[[str], None], make_tenant: MakeTenant, open_run: OpenLayer
) -> None:
    tenant = make_tenant("mercy")
    with open_run("ingest", tenant) as context, context.store.tenant("mercy") as connection:
        record_event(connection, "extract.landed", ["one"])
    layer_environment("audit")
    command = [sys.executable, "-m", "fhir_writeback_dagster.ops.onepass", "audit", "mercy"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["assets"]["audit_log"]["events/extract.landed"] == 1


def test_a_pass_that_is_told_to_end_leaves_its_lane_and_its_run_does_not_stay_open(
    dagster_home: Path,
    layer_environment: Callable[[str], None],
    make_tenant: MakeTenant,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_tenant("mercy")
    layer_environment("decide")
    (tmp_path / "hold-decide-mercy").touch()
    monkeypatch.setenv("DOUBLES", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).with_name("doubles")))
    command = [sys.executable, "-m", "fhir_writeback_dagster.ops.onepass", "decide", "mercy"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
        psycopg.connect(database.dsn("decide"), autocommit=True) as other,
    ):
        deadline = time.monotonic() + 120
        while not (tmp_path / "journal").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        run_id = lane_holder(other, "decide", "mercy")
        process.terminate()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert errors.splitlines()[-1].startswith("error: stopped [stopped]")
        assert lane_holder(other, "decide", "mercy") is None
    with dg.DagsterInstance.get() as instance:
        ended = instance.get_run_by_id(str(run_id))
        assert ended is not None
        assert ended.is_finished
