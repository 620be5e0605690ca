"""An EHR that says "not now" (503, 429) may have acted all the same: what was sent once counts as sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from commit.faults import FaultyLine, First, Say, Seen, Twist
from commit.world import World, heart_rate, patient

AT = "2024-03-01T10:00:00Z"


@pytest.mark.parametrize("status", [503, 429])
def test_ours_on_an_ehr_that_drops_identifiers_is_not_taken_for_somebody_elses(
    make_world: Callable[..., World], line: FaultyLine, status: int
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "vendor": "oracle_health"})
    world.load(patient("a", "a"))
    wanted = world.approve(heart_rate("a", AT, 72))
    acted: list[Seen] = []

    def acts_and_says_no(seen: Seen) -> Say | None:
        if seen.method != "POST" or seen.path != "Observation" or acted:
            return None
        acted.append(seen)
        world.ehr.chart.create({name: value for name, value in json.loads(seen.body).items() if name != "identifier"})
        return Say(status, (("Retry-After", "1"),))

    line.rules.append(acts_and_says_no)
    world.commit()
    assert world.intents()[0][:2] == ("committed", "reconciled")
    assert world.rows("SELECT origin FROM ledger.link WHERE tenant = %s") == [("ours",)]
    assert len(line.sent("POST", "Observation")) == 1
    # So a correction of it is ours to make.
    world.approve(heart_rate("a", AT, 80), key=wanted.business_key, revision=2)
    world.commit()
    assert world.intents()[1][:2] == ("committed", "updated")
    (found,) = world.ehr.search("Observation", subject="Patient/a")
    assert found["valueQuantity"]["value"] == 80


def test_a_fact_of_somebody_else_that_we_never_sent_stays_theirs(make_world: Callable[..., World], line: FaultyLine) -> None:
    world = make_world(ehr={"base_url": line.base_url, "vendor": "oracle_health"})
    world.load(patient("a", "a"))
    world.ehr.chart.create(heart_rate("a", AT, 72))
    world.approve(heart_rate("a", AT, 72))
    world.commit()
    assert world.intents()[0][:2] == ("committed", "suppressed")
    assert world.rows("SELECT origin FROM ledger.link WHERE tenant = %s") == [("foreign",)]


def test_an_update_that_was_done_in_spite_of_a_503_is_ours(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    faulty.commit()
    faulty.approve(heart_rate("a", AT, 80), key=wanted.business_key, revision=2)
    line.on("PATCH", "Observation", Twist(lambda *_: (503, [("Retry-After", "1")], b"")))
    faulty.commit()
    assert faulty.intents()[1][:2] == ("committed", "updated")
    assert len(line.sent("PATCH")) == 1


def test_what_a_person_took_back_after_a_503_that_was_none_is_not_written_again(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    faulty.commit()
    (before,) = faulty.in_ehr(wanted.business_key)
    faulty.approve(heart_rate("a", AT, 80), key=wanted.business_key, revision=2)
    line.on("PATCH", "Observation", Twist(lambda *_: (503, [("Retry-After", "1")], b"")))
    taken_back: list[Any] = []

    def takes_back(seen: Seen) -> First | None:
        if seen.method != "GET" or not line.sent("PATCH") or taken_back:
            return None
        taken_back.append(seen)
        return First(lambda: faulty.ehr.chart.update(before))

    line.rules.append(takes_back)
    faulty.commit()
    assert faulty.intents()[1] == ("committed", "updated", "found_in_history")
    (found,) = faulty.in_ehr(wanted.business_key)
    assert (found["valueQuantity"]["value"], len(line.sent("PATCH"))) == (72, 1)
