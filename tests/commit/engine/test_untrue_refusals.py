"""A refusal of a create is a claim: where only a search guards a repeat, it is looked into before anything else is sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from commit.faults import FaultyLine, Twist
from commit.world import World, heart_rate, patient

AT = "2024-03-01T10:00:00Z"
UNCONDITIONAL = (
    "UPDATE mirror.capability SET body = jsonb_set(body, '{rest,0,resource}', (SELECT jsonb_agg(r || "
    "'{\"conditionalCreate\": false}') FROM jsonb_array_elements(body #> '{rest,0,resource}') r)) WHERE tenant = %s"
)


@pytest.fixture
def searching(make_world: Callable[..., World], line: FaultyLine) -> World:
    """An EHR without conditional create, of which two patients are known."""
    world = make_world(ehr={"base_url": line.base_url, "vendor": "us_core", "quiet": "20s"})
    world.load(patient("a", "a"), patient("b", "b"))
    world.refresh()
    world.change(UNCONDITIONAL)
    return world


@pytest.mark.parametrize("status", [503, 429])
def test_a_newer_revision_finds_what_a_refused_one_made(searching: World, line: FaultyLine, status: int) -> None:
    """The newer one comes while the older waits; taking its place, it would create beside it or ask a person."""
    first = searching.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", Twist(lambda *_: (status, [("Retry-After", "1")], b"")))
    searching.commit(deadline_s=5)
    assert len(searching.in_ehr(first.business_key)) == 1
    searching.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    searching.change("UPDATE ledger.work SET not_before = now() WHERE tenant = %s")
    searching.commit()
    # That vendor guards no update, so that a person makes it; what matters is that it is one, of what the first became.
    assert searching.intents() == [("committed", "reconciled", "found"), ("in_review", None, "update_unguarded")]
    assert len(searching.in_ehr(first.business_key)) == len(line.sent("POST", "Observation")) == 1
