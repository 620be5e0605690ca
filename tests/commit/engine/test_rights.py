"""A refusal that is about our rights ends with a person and says which scope is wanting."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from commit.faults import FaultyLine, Say
from commit.world import World, heart_rate, patient

AT = "2024-03-01T10:00:00Z"
AGAIN = "UPDATE ledger.work SET not_before = now() WHERE tenant = %s"
UP = "UPDATE ledger.target SET held_until = now() WHERE tenant = %s"
CHALLENGE = 'Bearer realm="ehr", error="insufficient_scope", scope="system/Observation.c system/Provenance.c"'


def evidence(world: World) -> list[object]:
    return [row[0] for row in world.rows("SELECT evidence -> 'scope' FROM review.task WHERE tenant = %s")]


@pytest.mark.parametrize("status", [401, 403])
def test_a_scope_that_the_ehr_names_is_told_to_a_person_at_once(faulty: World, line: FaultyLine, status: int) -> None:
    faulty.load(patient("a", "a"), patient("b", "b"))
    faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", *[Say(status, (("WWW-Authenticate", CHALLENGE),))] * 2)
    report = faulty.commit()
    assert faulty.intents() == [("in_review", None, "insufficient_scope")]
    assert evidence(faulty) == [["system/Observation.c", "system/Provenance.c"]]
    assert report.trouble == ""
    line.rules.clear()
    faulty.approve(heart_rate("b", AT, 73))
    assert faulty.commit().counts["created"] == 1


def test_a_scope_that_the_ehr_does_not_name_is_the_one_that_the_request_needs(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", Say(403, (("WWW-Authenticate", 'Bearer error="insufficient_scope"'),)))
    faulty.commit()
    assert faulty.intents() == [("in_review", None, "insufficient_scope")]
    assert evidence(faulty) == [["system/Observation.c"]]


def test_a_refusal_that_a_fresh_token_does_not_mend_ends_with_a_person(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    line.rules.append(lambda seen: Say(401) if seen.method == "POST" and seen.path == "Observation" else None)
    for _ in range(8):
        faulty.commit()
        faulty.change(AGAIN)
        faulty.change(UP)
    assert faulty.intents() == [("in_review", None, "not_authorized")]
    assert evidence(faulty) == [["system/Observation.c"]]
    assert not faulty.in_ehr(wanted.business_key)


def test_a_search_without_the_scope_for_it_says_so(make_world: Callable[..., World], line: FaultyLine) -> None:
    world = make_world(ehr={"base_url": line.base_url})
    world.load(patient("a", "a"))
    world.approve(heart_rate("a", AT, 72))
    line.always("POST", "Observation/_search", Say(403, (("WWW-Authenticate", 'Bearer error="insufficient_scope"'),)))
    world.commit()
    world.change("UPDATE ledger.work SET not_before = now(), refused_since = now() - interval '2 days' WHERE tenant = %s")
    world.change(UP)
    world.commit()
    assert world.intents() == [("in_review", None, "read_refused_too_long")]
    assert evidence(world) == [["system/Observation.rs"]]
    assert world.rows("SELECT evidence ->> 'last' FROM review.task WHERE tenant = %s") == [("insufficient_scope",)]
