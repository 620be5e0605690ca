"""Looks that are refused, that find somebody else's, or that see only a part of the history."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from commit.faults import Fault, FaultyLine, First, LoseAnswer, LoseRequest, Say, Seen, Twist, refusal
from commit.world import Resource, World, heart_rate, patient

from fhir_writeback_dagster.commit.http.transport import STOPPED

AT = "2024-03-01T10:00:00Z"
DUE = "UPDATE ledger.work SET not_before = now() WHERE tenant = %s"
UP = "UPDATE ledger.target SET held_until = now() WHERE tenant = %s"
LONG_AGO = "UPDATE ledger.work SET not_before = now(), sent_at = now() - interval '8 days' WHERE tenant = %s"


def looks_meet(line: FaultyLine, fault: Fault) -> None:
    """From now on searches of Observations meet ``fault``; what a plan searches before is not in the way."""
    line.rules.insert(0, lambda seen: fault if seen.path == "Observation/_search" and line.sent("POST", "Observation") else None)


def corrected(world: World) -> Resource:
    """A first value that was written, and a correction of it that waits."""
    world.load(patient("a", "a"))
    first = world.approve(heart_rate("a", AT, 72))
    world.commit()
    (before,) = world.in_ehr(first.business_key)
    world.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    return before


@pytest.mark.parametrize("status", [403, 503])
def test_a_look_that_is_refused_ends_with_a_person_and_one_by_a_target_that_is_down_opens_the_circuit(
    make_world: Callable[..., World], line: FaultyLine, status: int
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "concurrency": 1, "quiet": "0s"})
    world.load(patient("a", "a"))
    world.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", LoseAnswer())
    looks_meet(line, refusal(status))
    report = world.commit()
    down = status == 503
    assert (bool(report.trouble), report.held, report.waiting) == (down, "down" if down else "", {"unknown": 1})
    world.change(UP)
    world.change(LONG_AGO)
    world.commit()
    assert world.intents() == [("in_review", None, "look_refused_too_long")]
    assert len(line.sent("POST", "Observation")) == 1
    ((evidence,),) = world.rows("SELECT evidence FROM review.task WHERE tenant = %s")
    assert evidence["last"] == {403: "look_forbidden", 503: "look_server_error"}[status]


def test_a_read_that_is_refused_counts_as_one_too(make_world: Callable[..., World], line: FaultyLine) -> None:
    world = make_world(ehr={"base_url": line.base_url, "concurrency": 1, "quiet": "0s"})
    corrected(world)
    line.on("PATCH", "Observation", LoseAnswer())
    line.rules.insert(0, lambda seen: Say(502) if seen.method == "GET" and line.sent("PATCH") else None)
    report = world.commit()
    assert (bool(report.trouble), report.held, report.waiting) == (True, "down", {"unknown": 1})
    world.change(UP)
    line.rules.clear()
    world.change(DUE)
    world.commit()
    assert world.intents()[1] == ("committed", "updated", "found")


def test_a_look_that_got_no_turn_was_not_refused(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", LoseAnswer())
    looks_meet(line, Say(429, (("Retry-After", "60"),)))
    faulty.commit()
    faulty.change(LONG_AGO)
    assert faulty.commit().held == "throttled"
    assert faulty.intents()[0][0] == "unknown"
    assert STOPPED not in str(faulty.rows("SELECT reason FROM ledger.intent WHERE tenant = %s"))


def test_an_equal_one_that_somebody_else_filed_meanwhile_is_not_ours(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    theirs = {name: value for name, value in wanted.payload.items() if name != "identifier"}
    line.on("POST", "Observation", LoseRequest())
    looks_meet(line, First(lambda: faulty.ehr.search("Observation") or faulty.ehr.chart.create(theirs)))
    faulty.commit()
    assert faulty.intents() == [("committed", "suppressed", "chart_has_same")]
    assert faulty.rows("SELECT origin FROM ledger.link WHERE tenant = %s") == [("foreign",)]
    faulty.approve(heart_rate("a", AT, 80), key=wanted.business_key, revision=2)
    faulty.commit()
    assert faulty.intents()[1] == ("in_review", None, "foreign_owned")
    assert [one["valueQuantity"]["value"] for one in faulty.ehr.search("Observation")] == [72]


def paged(size: int) -> Callable[[Seen], Fault | None]:
    """A server that tells a history in pages of ``size``."""

    def page(seen: Seen, body: bytes) -> bytes:
        whole = json.loads(body)
        begin = int(seen.path.partition("page=")[2] or 0)
        more = [{"relation": "next", "url": f"{seen.path.partition('?')[0]}?page={begin + size}"}]
        rest = whole["entry"][begin:]
        return json.dumps({**whole, "entry": rest[:size], "link": more if rest[size:] else []}).encode()

    def rule(seen: Seen) -> Fault | None:
        if "/_history" not in seen.path:
            return None
        return Twist(lambda status, headers, body: (status, headers, page(seen, body)))

    return rule


def meanwhile(line: FaultyLine, what: Callable[[], Any]) -> None:
    """Once, after our PATCH and before the look."""
    left = [First(what)]
    line.rules.append(lambda seen: left.pop() if left and seen.method == "GET" and line.sent("PATCH") else None)


def test_a_history_is_read_to_its_end(faulty: World, line: FaultyLine) -> None:
    before = corrected(faulty)
    line.on("PATCH", "Observation", LoseAnswer())
    line.rules.append(paged(1))

    def taken_back() -> None:
        for tag in ("one", "two"):
            faulty.ehr.chart.update({**before, "meta": {"tag": [{"system": "urn:x", "code": tag}]}})

    meanwhile(line, taken_back)
    faulty.commit()
    assert faulty.intents()[1] == ("committed", "updated", "found_in_history")
    assert len(line.sent("PATCH")) == 1


@pytest.mark.parametrize("how", ["ends early", "breaks off"])
def test_a_history_that_does_not_reach_back_proves_nothing(faulty: World, line: FaultyLine, how: str) -> None:
    before = corrected(faulty)
    line.on("PATCH", "Observation", LoseAnswer())

    def short(status: int, headers: Any, body: bytes) -> Any:
        whole = json.loads(body)
        return status, headers, json.dumps({**whole, "entry": whole["entry"][:1], "link": []}).encode()

    if how == "ends early":
        line.rules.append(lambda seen: Twist(short) if seen.path.endswith("/_history") else None)
    else:
        line.rules += [lambda seen: Say(404) if "page=1" in seen.path else None, paged(1)]
    meanwhile(line, lambda: faulty.ehr.chart.update({**before, "meta": {"tag": [{"system": "urn:x", "code": "one"}]}}))
    faulty.commit()
    assert faulty.intents()[1] == ("in_review", None, "history_unreadable")
    assert len(line.sent("PATCH")) == 1
