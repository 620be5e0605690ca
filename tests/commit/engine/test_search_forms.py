"""EHRs that want more than the patient in a search, or smaller pages, are written all the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import pytest
from commit.faults import FaultyLine, Say, Seen
from commit.world import World, heart_rate, patient

AT = "2024-03-01T10:00:00Z"
FHIR = (("Content-Type", "application/fhir+json"),)


def refused(code: str) -> Say:
    outcome = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": code}]}
    return Say(400, FHIR, json.dumps(outcome).encode())


def params(seen: Seen) -> dict[str, list[str]]:
    return parse_qs(seen.body.decode())


def wants(line: FaultyLine, *combinations: set[str]) -> list[set[str]]:
    """Searches of Observations have to name one of ``combinations``; returns what was asked with, `_count` aside."""
    asked: list[set[str]] = []

    def rule(seen: Seen) -> Say | None:
        if seen.path != "Observation/_search" or "patient" not in params(seen):
            return None
        names = set(params(seen)) - {"_count"}
        asked.append(names)
        return None if any(names >= wanted for wanted in combinations) else refused("required")

    line.rules.append(rule)
    return asked


@pytest.fixture(params=[1, 50], ids=["singly", "in batches"])
def world(make_world: Callable[..., World], line: FaultyLine, request: Any) -> World:
    made = make_world(ehr={"base_url": line.base_url, "bundle_size": request.param})
    made.load(patient("a", "a"), patient("b", "b"))
    return made


@pytest.mark.parametrize("combination", [{"patient", "code"}, {"patient", "category"}], ids=["code", "category"])
def test_the_next_mandatory_combination_is_tried(world: World, line: FaultyLine, combination: set[str]) -> None:
    asked = wants(line, combination)
    world.ehr.chart.create(heart_rate("a", "2024-03-01T05:00:00-05:00", 72))
    world.approve_all([heart_rate("a", AT, 72), heart_rate("b", AT, 72)])
    report = world.commit()
    assert (report.counts["suppressed"], report.counts["created"]) == (1, 1)
    assert combination in asked
    before = len(asked)
    world.approve(heart_rate("a", "2024-03-02T10:00:00Z", 72))
    assert world.commit().counts["created"] == 1
    assert len(asked) - before <= 4, "what it takes is found out once a run"


def test_what_no_combination_brings_is_said(world: World, line: FaultyLine) -> None:
    wants(line, {"nobody"})
    world.approve(heart_rate("a", AT, 72))
    report = world.commit(deadline_s=5)
    assert report.counts.get("created", 0) == 0
    ((reason,),) = world.rows("SELECT reason FROM ledger.intent WHERE tenant = %s")
    assert reason == "malformed"


def test_of_a_vendor_that_is_known_to_want_more_the_right_form_is_asked_at_once(
    make_world: Callable[..., World], line: FaultyLine
) -> None:
    epic = make_world(ehr={"vendor": "epic", "base_url": line.base_url})
    asked = wants(line, {"patient", "code"}, {"patient", "category"})
    epic.load(patient("a", "a"))
    epic.approve(heart_rate("a", AT, 72))
    epic.commit()
    assert asked
    assert all(len(names) > 1 for names in asked)


@pytest.mark.parametrize("most", [100, 0], ids=["a smaller page", "none at all"])
def test_a_page_that_is_too_large_is_asked_for_smaller(world: World, line: FaultyLine, most: int) -> None:
    def rule(seen: Seen) -> Say | None:
        count = params(seen).get("_count") if seen.path.endswith("_search") else None
        return refused("value") if count and int(count[0]) > most else None

    line.rules.append(rule)
    world.refresh()
    world.approve(heart_rate("a", AT, 72))
    assert world.commit().counts["created"] == 1
