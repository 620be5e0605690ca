"""From an agent's file to the EHR: resources about patients and encounters that the agent names by the EHR's own ids."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from commit.world import World, encounter, heart_rate, patient
from conftest import OpenLayer
from support import PROJECT

from fhir_writeback_dagster.decide.pipeline import decide
from fhir_writeback_dagster.ingest.pipeline import land, normalise

POLICY = """
@id("fhir-agent-alone")
permit (principal == Writeback::Agent::"fhir-agent", action == Writeback::Action::"autoCommit", resource)
when { [Writeback::Kind::"vital_sign", Writeback::Kind::"lab_result"].contains(resource) };
"""


@pytest.fixture
def make_agent_world(make_world: Callable[..., World], home: Path) -> Callable[..., World]:
    """``make_agent_world(relative_references="ehr")``: an EHR with two patients; the agent's findings need no person."""

    def make(**use: Any) -> World:
        for name in ("policies", "expectations"):
            (home / name).unlink()
        shutil.copytree(PROJECT / "policies", home / "policies")
        (home / "expectations").mkdir()
        (home / "policies" / "fhir_agent.cedar").write_text(POLICY)
        source = {"version": 2, "landing": "landing/agent", **use}
        world = make_world(sources={"fhir_agent": source}, policies=["baseline", "fhir_agent"])
        world.load(patient("a", "1"), patient("b", "2"), encounter("e", "a"))
        world.refresh()
        return world

    return make


def through(world: World, open_run: OpenLayer, home: Path, *resources: dict[str, Any]) -> None:
    """Deliver, ingest, decide, commit."""
    lines = [json.dumps({"id": f"o{n}", **one}) for n, one in enumerate(resources)]
    (home / "landing" / "agent" / "findings.ndjson").write_text("\n".join(lines))
    with open_run("ingest", world.tenant) as run:
        land(run)
        normalise(run)
    decide(world.decide)
    world.commit()


def test_what_names_the_ehr_s_own_patient_is_written_to_that_patient(
    make_agent_world: Callable[..., World], open_run: OpenLayer, home: Path
) -> None:
    world = make_agent_world()
    base = world.tenant.ehr.base_url
    mine = heart_rate("x", "2024-03-01T10:00:00Z", 72, encounter={"reference": f"{base}/Encounter/e"})
    mine["subject"] = {"reference": f"{base}/Patient/a/_history/1"}
    theirs = heart_rate("x", "2024-03-01T10:00:00Z", 73)
    theirs["subject"] = {"reference": "https://ehr.stv.example/fhir/Patient/a"}
    through(world, open_run, home, mine, theirs)
    (found,) = world.ehr.search("Observation")
    assert (found["subject"], found["encounter"]) == ({"reference": "Patient/a"}, {"reference": "Encounter/e"})
    assert found["valueQuantity"]["value"] == 72
    assert world.intents() == [("committed", "created", None)]


@pytest.mark.parametrize(("whose", "written"), [("sender", 0), ("ehr", 1)])
def test_relative_references_are_the_ehr_s_only_where_the_tenant_says_so(
    make_agent_world: Callable[..., World], open_run: OpenLayer, home: Path, whose: str, written: int
) -> None:
    world = make_agent_world(relative_references=whose)
    through(world, open_run, home, heart_rate("b", "2024-03-01T10:00:00Z", 72))
    assert [one["subject"] for one in world.ehr.search("Observation")] == [{"reference": "Patient/b"}] * written


def test_a_laboratory_s_bound_is_written_as_one(make_agent_world: Callable[..., World], open_run: OpenLayer, home: Path) -> None:
    world = make_agent_world(relative_references="ehr")
    quantity = {"value": 0.15, "comparator": "<", "unit": "mg/L", "system": "http://unitsofmeasure.org", "code": "mg/L"}
    crp = {
        "code": {"coding": [{"system": "http://loinc.org", "code": "30522-7"}]},
        "category": [{"coding": [{"code": "laboratory"}]}],
    }
    through(world, open_run, home, heart_rate("a", "2024-03-01T10:00:00Z", 72) | crp | {"valueQuantity": quantity})
    (found,) = world.ehr.search("Observation")
    assert found["valueQuantity"] == quantity | {"value": Decimal("0.15")}


def test_a_patient_merged_between_decide_and_commit_is_not_written_to(
    make_agent_world: Callable[..., World], open_run: OpenLayer, home: Path
) -> None:
    world = make_agent_world()
    mine = heart_rate("x", "2024-03-01T10:00:00Z", 72)
    mine["subject"] = {"reference": f"{world.tenant.ehr.base_url}/Patient/a"}
    (home / "landing" / "agent" / "findings.ndjson").write_text(json.dumps({"id": "o1", **mine}))
    with open_run("ingest", world.tenant) as run:
        land(run)
        normalise(run)
    decide(world.decide)
    survivor = [{"other": {"reference": "Patient/b"}, "type": "replaced-by"}]
    world.load(patient("b", "2", "1"), patient("a", active=False, link=survivor))
    world.refresh()
    world.commit()
    assert world.ehr.search("Observation", subject="Patient/a") == []
    decide(world.decide)
    world.commit()
    (found,) = world.ehr.search("Observation")
    assert found["subject"] == {"reference": "Patient/b"}
