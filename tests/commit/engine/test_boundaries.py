"""Whatever is raised while one patient's write is worked on ends that write: the neighbours are written, and the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from commit.faults import FaultyLine, LoseAnswer
from commit.world import World, heart_rate, patient

from fhir_writeback_dagster.commit import sensors
from fhir_writeback_dagster.commit.adapters.generic import Generic
from fhir_writeback_dagster.commit.engine import bundles, recheck, recording
from fhir_writeback_dagster.commit.engine.chart_lookup import ChartLookup
from fhir_writeback_dagster.commit.engine.conclusions import Conclusions
from fhir_writeback_dagster.commit.engine.reconcile import Reconciler
from fhir_writeback_dagster.commit.fhir_client import FhirClient
from fhir_writeback_dagster.commit.mirror import rows

AT = "2024-03-01T10:00:00Z"
TEXT = "Jane Doe, born 1970"


class Unthought(Exception):  # of no class that anybody could name in an `except`
    """What nobody thought of."""


def about_a(arguments: tuple[Any, ...]) -> bool:
    """Is patient a's write among what a function was given?"""
    return "Patient/a" in repr(arguments) or "patient_id='a'" in repr(arguments)


def breaks(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, is_async: bool = False, when: Any = about_a) -> None:
    """``owner.name`` raises whenever it is about patient a."""
    real = getattr(owner, name)

    def stumble(*arguments: Any, **more: Any) -> Any:
        if when(arguments):
            raise Unthought(TEXT)
        return real(*arguments, **more)

    async def stumble_async(*arguments: Any, **more: Any) -> Any:
        if when(arguments):
            raise Unthought(TEXT)
        return await real(*arguments, **more)

    monkeypatch.setattr(owner, name, stumble_async if is_async else stumble)


def is_create_of_a(arguments: tuple[Any, ...]) -> bool:
    return "Patient/a" in repr(arguments[1].body) and arguments[1].kind == "write"


BOUNDARIES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "whether the chart is needed": (Generic, "needs_chart", {}),
    "the chart": (ChartLookup, "alike", {"is_async": True}),
    "the facts": (Reconciler, "facts", {"is_async": True}),
    "the plan": (Generic, "plan", {}),
    "the re-check": (recheck, "about_records", {}),
    "the request": (FhirClient, "send", {"is_async": True, "when": is_create_of_a}),
    "the answer's class": (Generic, "interpret", {}),
    "the answer's resource": (Generic, "recognise", {}),
    "the conclusion": (Conclusions, "_written", {"is_async": True}),
    "the record": (recording, "_detail", {}),
}


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_neighbours_of_what_breaks_are_written(
    make_world: Callable[..., World], line: FaultyLine, monkeypatch: pytest.MonkeyPatch, capfd: Any, boundary: str
) -> None:
    owner, name, how = BOUNDARIES[boundary]
    size = 1 if boundary == "the request" else 10
    world = make_world(ehr={"base_url": line.base_url, "bundle_size": size, "quiet": "0s"})
    ids = ("a", "b", "c", "d")
    world.load(*(patient(one, one) for one in ids))
    world.refresh()
    world.approve_all([heart_rate(one, AT, 72) for one in ids])
    breaks(monkeypatch, owner, name, **how)
    world.commit(20)
    states: dict[str, str] = dict(world.rows("SELECT patient_id, state FROM ledger.intent WHERE tenant = %s"))
    assert {one: states[one] for one in ids[1:]} == dict.fromkeys(ids[1:], "committed")
    assert len(world.ehr.search("Observation")) in (3, 4)
    told = world.rows("SELECT reason, evidence::text FROM review.task WHERE tenant = %s")
    assert states["a"] == "in_review" or not told
    assert TEXT not in str(told) + "".join(capfd.readouterr())


def test_a_look_that_breaks_ends_with_a_person_and_the_others_are_looked_for(
    make_world: Callable[..., World], line: FaultyLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "quiet": "0s", "concurrency": 8})
    world.load(patient("a", "a"), patient("b", "b"))
    world.refresh()
    world.approve_all([heart_rate("a", AT, 72), heart_rate("b", AT, 73)])
    line.on("POST", "Observation", LoseAnswer(), LoseAnswer())
    breaks(monkeypatch, Reconciler, "compare", is_async=True)
    world.commit(20)
    assert dict(world.rows("SELECT patient_id, state FROM ledger.intent WHERE tenant = %s")) == {
        "a": "in_review",
        "b": "committed",
    }
    ((reason, evidence),) = world.rows("SELECT reason, evidence FROM review.task WHERE tenant = %s")
    assert (reason, evidence["error"]) == ("defect", "Unthought")
    assert "test_boundaries" in evidence["place"] or "reconcile" in evidence["place"]


def test_a_bundle_whose_answer_breaks_is_looked_for(make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(ehr={"bundle_size": 10, "quiet": "0s"})
    world.load(patient("a", "a"), patient("b", "b"))
    world.refresh()
    keys = [one.business_key for one in world.approve_all([heart_rate("a", AT, 72), heart_rate("b", AT, 73)])]
    left = [1]
    breaks(monkeypatch, bundles, "assign", when=lambda _: bool(left and left.pop()))
    world.commit(20)
    assert all(len(world.in_ehr(key)) == 1 for key in keys), "each is there once"
    assert {row[0] for row in world.intents()} <= {"committed", "in_review"}


def test_a_resource_that_breaks_the_mirror_leaves_the_others_mirrored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.load(patient("a", "a"), patient("b", "b"), patient("c", "c"))
    breaks(monkeypatch, rows, "is_active", when=lambda arguments: "name" in arguments[0] and arguments[0]["id"] == "a")
    report = world.refresh()
    assert report.metadata()["defects"] == 1
    assert dict(world.rows("SELECT patient_id, active FROM mirror.patient WHERE tenant = %s")) == {
        "a": False,
        "b": True,
        "c": True,
    }
    ((detail,),) = world.owner_rows("SELECT detail FROM audit.event WHERE tenant = %s AND type = 'mirror.patient_defect'")
    assert detail["error"] == "Unthought"
    world.approve_all([heart_rate("a", AT, 72), heart_rate("b", AT, 73)])
    assert world.commit().counts["created"] == 1, "nobody is written to who could not be read"


def test_a_tenant_that_breaks_a_tick_leaves_the_others_their_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "tenant_ids", lambda _: ["broken", world.run.id])
    breaks(monkeypatch, sensors, "load_tenant", when=lambda arguments: arguments[1] == "broken")
    asked = SimpleNamespace(notes=[], wanted={})

    def ask(*arguments: Any) -> Any:
        asked.wanted = arguments[-1]
        return asked

    monkeypatch.setattr(sensors, "ask", ask)
    connection: Any = SimpleNamespace(execute=lambda _: [])
    sensors._ask(None, connection, world.run.settings, sensors.is_old)  # type: ignore[arg-type]
    assert list(asked.wanted) == [world.run.id]
    (note,) = asked.notes
    assert note.startswith("broken: ")
    assert TEXT not in note
