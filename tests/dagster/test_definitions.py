"""Every asset, check, job, sensor and schedule that a person sees: what changes here changes in the UI, so it shows in review.

``FHIR_WRITEBACK_HOME=. PYTHONPATH=tests .venv/bin/python tests/dagster/test_definitions.py`` writes the snapshot anew.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import dagster as dg
import pytest
from support import PROJECT

from fhir_writeback_dagster.orchestration.lanes import LANE_TAG

SNAPSHOT = Path(__file__).with_name("definitions.json")
LOCATIONS = ("ingest", "decide", "commit", "audit")


def seen(location: str) -> dict[str, object]:
    repository = definitions(location).get_repository_def()
    graph = repository.asset_graph
    nodes = [graph.get(key) for key in sorted(graph.executable_asset_keys)]
    return {
        "assets": {
            node.key.to_user_string(): {
                "deps": sorted(key.to_user_string() for key in node.parent_keys),
                "group": node.group_name,
                "kinds": sorted(node.kinds),
                "owners": sorted(node.owners),
                "partitions": getattr(node.partitions_def, "name", None),
            }
            for node in nodes
        },
        "checks": sorted(f"{key.asset_key.to_user_string()}:{key.name}" for key in graph.asset_check_keys),
        "jobs": {
            job.name: {"lane": job.tags.get(LANE_TAG), "executor": job.executor_def.name}
            for job in repository.get_all_jobs()
            if not job.name.startswith("__")
        },
        "sensors": {
            sensor.name: {"every_s": sensor.minimum_interval_seconds, "status": sensor.default_status.value}
            for sensor in repository.sensor_defs
        },
        "schedules": {
            schedule.name: {"cron": schedule.cron_schedule, "status": schedule.default_status.value}
            for schedule in repository.schedule_defs
        },
    }


def definitions(location: str) -> dg.Definitions:
    defs: dg.Definitions = import_module(f"fhir_writeback_dagster.locations.{location}").defs
    return defs


@pytest.fixture(autouse=True)
def shipped_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHIR_WRITEBACK_HOME", str(PROJECT))


def test_the_definitions_are_those_that_were_reviewed() -> None:
    assert {location: seen(location) for location in LOCATIONS} == json.loads(SNAPSHOT.read_text())


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_location_loads_as_a_whole_and_every_asset_tells_an_analyst_what_it_is(location: str) -> None:
    defs = definitions(location)
    dg.Definitions.validate_loadable(defs)
    graph = defs.get_repository_def().asset_graph
    for key in graph.executable_asset_keys:
        assert len(graph.get(key).description or "") > 100, key


def test_no_location_imports_what_it_does_not_need() -> None:
    heavy = ("great_expectations", "pandas", "fhir", "polars", "httpx", "cedarpy")
    code = f"""
import sys
from fhir_writeback_dagster.locations import {", ".join(LOCATIONS)}
print(*[name for name in {heavy!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.split() == []
    assert "Warning" not in done.stderr


def test_a_bad_suite_takes_away_the_checks_and_not_the_location(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "expectations").unlink()
    (home / "expectations").mkdir()
    (home / "expectations" / "condition.json").write_text('{"name": "condition",\n oops}')
    code = """
from fhir_writeback_dagster.locations.ingest import defs
graph = defs.get_repository_def().asset_graph
print(len(graph.executable_asset_keys), len(graph.asset_check_keys))
"""
    monkeypatch.setenv("FHIR_WRITEBACK_HOME", str(home))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "0"]
    assert "condition.json:2" in done.stderr
    assert "[bad_json]" in done.stderr


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps({location: seen(location) for location in LOCATIONS}, indent=1) + "\n")
