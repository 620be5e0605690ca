"""Sensitive data through decide and commit onto a real EHR: written only where a consent names its label, and labelled there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from commit.world import MRN, World, consent, heart_rate, patient
from conftest import OpenLayer
from decide.stage import Stage

from fhir_writeback_dagster.rules.consent.codes import ACT_CODE

AT = "2024-03-01T10:00:00Z"
ALCOHOL = {"codings": [{"system": "http://snomed.info/sct", "code": "7200002", "display": "Alcoholism"}]}
LABEL = {"system": ACT_CODE, "code": "ETHUD"}


@pytest.fixture
def stage(world: World, open_run: OpenLayer) -> Stage:
    return Stage(world.tenant, open_run, now=datetime.now(UTC))


def _told(world: World, stage: Stage, patient_id: str, *named: str) -> UUID:
    root: dict[str, Any] = {"type": "permit"}
    if named:
        root["securityLabel"] = [{"system": ACT_CODE, "code": code} for code in named]
    world.load(patient(patient_id, patient_id), consent(f"c-{patient_id}", patient_id, provision=root))
    world.refresh()
    record = stage.say(
        {
            "kind": "condition",
            "patient": {"identifiers": [{"system": MRN, "value": patient_id}]},
            "code": ALCOHOL,
            "onset": "2024-03-01",
            "clinical_status": "active",
        }
    )
    stage.decide()
    return record


def test_under_a_general_permit_nothing_is_sent(world: World, stage: Stage) -> None:
    record = _told(world, stage, "general")
    assert stage.end_of(record) == ("denied", "consent_deny")
    assert world.commit().written == 0
    assert world.ehr.search("Condition", patient="general") == []


def test_under_a_permit_that_names_it_it_is_sent_with_its_label(world: World, stage: Stage) -> None:
    record = _told(world, stage, "named", "ETHUD")
    assert stage.end_of(record) == ("approved", None)
    assert world.commit().counts["created"] == 1
    (written,) = world.in_ehr(stage.candidate(record)["business_key"], "Condition")
    assert written["meta"]["security"] == [LABEL]


def test_a_permit_that_is_narrowed_after_the_verdict_stops_it(world: World, stage: Stage) -> None:
    _told(world, stage, "narrowed", "ETHUD")
    world.load(consent("c-narrowed", "narrowed"))
    world.refresh()
    assert world.commit().written == 0
    assert world.intents() == [("withdrawn", None, "consent_deny")]


def test_an_update_brings_a_label_that_the_chart_lacks(world: World) -> None:
    world.load(patient("a", "a"))
    world.approve(heart_rate("a", AT, 72), key="k")
    assert world.commit().counts["created"] == 1
    world.approve(heart_rate("a", AT, 72, meta={"security": [LABEL]}), key="k", revision=2)
    assert world.commit().counts["updated"] == 1
    (written,) = world.in_ehr("k")
    assert written["meta"]["security"] == [LABEL]
