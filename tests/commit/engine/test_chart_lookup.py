"""Before a first create the chart is asked: somebody else may have told of it already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from commit.world import World, heart_rate, patient

AT = "2024-03-01T10:00:00Z"


@pytest.fixture(params=[1, 50], ids=["singly", "in batches"])
def world(make_world: Callable[..., World], request: Any) -> World:
    made = make_world(ehr={"bundle_size": request.param})
    made.load(patient("a", "a"), patient("b", "b"))
    return made


def test_the_same_of_another_is_linked_as_foreign_and_nothing_is_written(world: World) -> None:
    theirs = world.ehr.chart.create(heart_rate("a", "2024-03-01T05:00:00-05:00", 72))
    world.approve(heart_rate("a", AT, 72))
    assert world.commit().counts["suppressed"] == 1
    assert world.intents() == [("committed", "suppressed", "chart_has_same")]
    assert world.rows("SELECT origin, resource_id FROM ledger.link WHERE tenant = %s") == [("foreign", theirs["id"])]
    assert len(world.ehr.search("Observation")) == 1


def test_another_value_of_another_goes_to_a_person(world: World) -> None:
    theirs = world.ehr.chart.create(heart_rate("a", AT, 75))
    world.approve(heart_rate("a", AT, 72))
    world.commit()
    assert world.intents() == [("in_review", None, "chart_has_other")]
    assert world.rows("SELECT evidence->'resources' FROM review.task WHERE tenant = %s") == [([f"Observation/{theirs['id']}"],)]
    assert len(world.ehr.search("Observation")) == 1


def test_what_another_retracted_goes_to_a_person(world: World) -> None:
    world.ehr.chart.create({**heart_rate("a", AT, 72), "status": "entered-in-error"})
    world.approve(heart_rate("a", AT, 72))
    world.commit()
    assert world.intents() == [("in_review", None, "chart_has_retracted")]


def test_a_foreign_one_is_not_ours_to_change(world: World) -> None:
    world.ehr.chart.create(heart_rate("a", AT, 72))
    first = world.approve(heart_rate("a", AT, 72))
    world.commit()
    world.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    world.commit()
    assert world.intents()[1] == ("in_review", None, "foreign_owned")


def test_the_same_of_another_patient_is_another_fact(world: World) -> None:
    world.ehr.chart.create(heart_rate("b", AT, 72))
    world.approve_all([heart_rate("a", AT, 72), heart_rate("b", "2024-03-01T10:00:01Z", 72)])
    assert world.commit().counts["created"] == 2


def test_our_own_are_known_to_the_ledger_and_not_looked_at(world: World) -> None:
    world.approve(heart_rate("a", AT, 72), key="one")
    world.commit()
    world.approve(heart_rate("a", AT, 75), key="another-identity-of-a-mapping")
    assert world.commit().counts["created"] == 1


def test_what_already_bears_our_key_is_compared_before_it_is_called_ours(world: World) -> None:
    same = world.approve(heart_rate("a", AT, 72))
    other = world.approve(heart_rate("a", "2024-03-01T11:00:00Z", 72))
    world.ehr.chart.create(same.payload)
    changed = {**other.payload["valueQuantity"], "value": 90}
    world.ehr.chart.create({**other.payload, "valueQuantity": changed})
    world.commit()
    assert world.intents() == [("committed", "suppressed", "existed"), ("in_review", None, "existed_differently")]
    assert len(world.ehr.search("Observation")) == 2
