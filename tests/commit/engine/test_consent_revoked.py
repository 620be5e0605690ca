"""A consent that is revoked between decide and send stops the write: decide, commit and a real EHR, without Dagster."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from commit.world import MRN, World, consent, patient
from conftest import OpenLayer
from decide.stage import Stage

Tell = Callable[[str], UUID]


@pytest.fixture
def stage(world: World, open_run: OpenLayer) -> Stage:
    return Stage(world.tenant, open_run, now=datetime.now(UTC))


def _decided(world: World, stage: Stage, patient_id: str) -> UUID:
    world.load(patient(patient_id, patient_id), consent(f"c-{patient_id}", patient_id))
    world.refresh()
    record = stage.tell(patient={"identifiers": [{"system": MRN, "value": patient_id}]})
    stage.decide()
    assert stage.end_of(record) == ("approved", None)
    return record


def _stopped(world: World, stage: Stage, record: UUID) -> None:
    assert world.commit().written == 0
    assert world.intents() == [("withdrawn", None, "consent_deny")]
    assert world.in_ehr(stage.candidate(record)["business_key"]) == []
    stage.decide()
    assert stage.end_of(record) == ("denied", "consent_deny")
    reasons: list[dict[str, Any]] = stage.rows(
        "SELECT v.reasons, v.versions FROM decision.verdict v JOIN decision.candidate c USING (tenant, verdict_id) "
        "WHERE c.record_id = %s",
        record,
    )
    assert reasons[0]["versions"]["consent"]["id"].startswith("c-")
    assert world.commit().written == 0, "and it stays so"


def test_revoked_before_the_mirror_was_refreshed(world: World, stage: Stage) -> None:
    record = _decided(world, stage, "revoked-mirrored")
    world.load(consent("c-revoked-mirrored", "revoked-mirrored", "deny"))
    world.refresh()
    _stopped(world, stage, record)


def test_revoked_and_the_mirror_is_older_than_the_tenant_allows(world: World, stage: Stage) -> None:
    record = _decided(world, stage, "revoked-late")
    world.load(consent("c-revoked-late", "revoked-late", "deny"))
    world.change("UPDATE mirror.sync SET refreshed_at = refreshed_at - interval '1 hour' WHERE tenant = %s")
    _stopped(world, stage, record)


def test_not_revoked_it_is_written(world: World, stage: Stage) -> None:
    record = _decided(world, stage, "kept")
    assert world.commit().counts["created"] == 1
    assert len(world.in_ehr(stage.candidate(record)["business_key"])) == 1
