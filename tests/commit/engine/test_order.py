"""Revisions of one fact: one open at a time, the newest wins, and nothing goes back to an older one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from commit.faults import FaultyLine, LoseAnswer, LoseRequest, Say
from commit.world import World, heart_rate, patient

from fhir_writeback_dagster.commit.ledger import intents

AT = "2024-03-01T10:00:00Z"


def test_a_newer_revision_discards_one_that_was_not_sent(world: World) -> None:
    world.load(patient("a", "a"))
    first = world.approve(heart_rate("a", AT, 72))
    with world.run.store.tenant(world.run.id) as connection:
        intents.accept(connection, world.run, 10)
    world.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    report = world.commit()
    assert (report.counts["discarded"], report.counts["created"]) == (1, 1)
    assert world.intents() == [("discarded", None, "superseded"), ("committed", "created", None)]
    (found,) = world.in_ehr(first.business_key)
    assert found["valueQuantity"]["value"] == 80


def test_a_newer_revision_discards_one_that_waits_for_its_retry(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    first = faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", Say(429, (("Retry-After", "600"),)))
    assert faulty.commit().waiting == {"retry_wait": 1}
    faulty.change("UPDATE ledger.target SET held_until = now() WHERE tenant = %s")
    faulty.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    faulty.commit()
    assert faulty.intents() == [("discarded", None, "superseded"), ("committed", "created", None)]


@pytest.fixture
def patient_world(make_world: Callable[..., World], line: FaultyLine) -> World:
    """What had no answer rests for an hour here, or until the test lets it."""
    world = make_world(ehr={"base_url": line.base_url, "quiet": "1h"})
    world.load(patient("a", "a"))
    return world


def _quiet_is_over(world: World) -> None:
    world.change("UPDATE ledger.work SET not_before = now() WHERE tenant = %s")


def test_a_newer_revision_waits_for_one_that_may_have_been_sent(patient_world: World, line: FaultyLine) -> None:
    faulty = patient_world
    first = faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", LoseAnswer())
    assert faulty.commit().waiting == {"unknown": 1}
    faulty.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    _quiet_is_over(faulty)
    faulty.commit()
    assert faulty.intents() == [("committed", "reconciled", "found"), ("committed", "updated", None)]
    (found,) = faulty.in_ehr(first.business_key)
    assert (found["valueQuantity"]["value"], found["meta"]["versionId"]) == (80, "2")


def test_one_that_was_never_applied_is_not_sent_again_when_a_newer_waits(patient_world: World, line: FaultyLine) -> None:
    faulty = patient_world
    first = faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", LoseRequest())
    assert faulty.commit().waiting == {"unknown": 1}
    faulty.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    _quiet_is_over(faulty)
    faulty.commit()
    assert faulty.intents() == [("discarded", None, "superseded"), ("committed", "created", None)]
    (found,) = faulty.in_ehr(first.business_key)
    assert (found["valueQuantity"]["value"], found["meta"]["versionId"]) == (80, "1")


def test_an_older_revision_that_comes_back_does_not_revert_a_newer(world: World) -> None:
    world.load(patient("a", "a"))
    second = world.approve(heart_rate("a", AT, 80), revision=2)
    world.commit()
    world.approve(heart_rate("a", AT, 72), key=second.business_key, revision=1)
    world.commit()
    assert world.intents()[1] == ("discarded", None, "superseded")
    (found,) = world.in_ehr(second.business_key)
    assert found["valueQuantity"]["value"] == 80
    assert world.rows("SELECT revision FROM ledger.link WHERE tenant = %s") == [(2,)]


def test_the_same_revision_twice_is_one_intent(world: World) -> None:
    world.load(patient("a", "a"))
    first = world.approve(heart_rate("a", AT, 72))
    world.commit()
    world.approve(heart_rate("a", AT, 72), key=first.business_key)
    assert world.commit().counts == {}
    assert len(world.intents()) == 1
