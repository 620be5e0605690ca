"""Reads that are refused or fail for some patients stop these, end with a person, and nobody else notices."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs

import pytest
from commit.faults import Fault, FaultyLine, LoseAnswer, Say, Seen, refusal
from commit.world import World, heart_rate, patient

AT = "2024-03-01T10:00:00Z"
DUE = "UPDATE ledger.work SET not_before = now() WHERE tenant = %s"
REFUSED_LONG_AGO = "UPDATE ledger.work SET not_before = now(), refused_since = now() - interval '2 days' WHERE tenant = %s"
REFUSED_VERY_LONG_AGO = REFUSED_LONG_AGO.replace("2 days", "8 days")
UP = "UPDATE ledger.target SET held_until = now() WHERE tenant = %s"


def asked_for(seen: Seen) -> set[str]:
    """The patients whose Observations a search wants."""
    if seen.path != "Observation/_search":
        return set()
    form = parse_qs(seen.body.decode())
    return {one.removeprefix("Patient/") for value in form.get("patient", []) for one in value.split(",")}


def refuse(line: FaultyLine, patients: set[str], fault: Fault) -> None:
    line.rules.append(lambda seen: fault if asked_for(seen) & patients else None)


def many(world: World, count: int) -> None:
    ids = [f"p{n:03}" for n in range(count)]
    world.load(*(patient(one, one) for one in ids))
    world.refresh()
    world.approve_all([heart_rate(one, AT, 72) for one in ids])


@pytest.mark.parametrize("bundle_size", [1, 50])
@pytest.mark.parametrize("status", [403, 410, 500])
def test_twenty_refused_patients_leave_a_hundred_good_writes_sent(
    make_world: Callable[..., World], line: FaultyLine, status: int, bundle_size: int
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "bundle_size": bundle_size})
    many(world, 120)
    refuse(line, {f"p{n:03}" for n in range(20)}, refusal(status))
    report = world.commit()
    assert report.counts["created"] == 100
    assert (report.trouble, report.held, report.waiting) == ("", "", {"retry_wait": 20})

    world.change(REFUSED_LONG_AGO)
    report = world.commit()
    assert report.counts["in_review"] == 20
    assert not report.waiting
    ends = world.intents()
    assert [end[0] for end in ends].count("committed") == 100
    assert {end[2] for end in ends if end[0] == "in_review"} == {"read_refused_too_long"}
    code = {403: "forbidden", 410: "refused", 500: "server_error"}[status]
    assert set(world.rows("SELECT evidence ->> 'last' FROM review.task WHERE tenant = %s")) == {(code,)}


def test_a_refusal_of_everybody_concerns_the_target(make_world: Callable[..., World], line: FaultyLine) -> None:
    world = make_world(ehr={"base_url": line.base_url})
    many(world, 200)
    line.always("POST", "Observation/_search", refusal(403))
    report = world.commit()
    assert (report.trouble, report.held) == ("forbidden", "down")
    assert set(report.waiting) <= {"ready", "retry_wait"}
    assert len(line.sent("POST", "Observation/_search")) < 200, "those of the first claim only"
    world.change(UP)
    line.rules.clear()
    world.change(DUE)
    assert world.commit().counts["created"] == 200


def test_a_patient_whose_chart_can_be_read_again_begins_anew(faulty: World, line: FaultyLine) -> None:
    many(faulty, 2)
    refuse(line, {"p000"}, refusal(403))
    faulty.commit()
    ((since,),) = faulty.rows("SELECT refused_since FROM ledger.work WHERE tenant = %s")
    assert since is not None
    line.rules.clear()
    line.on("POST", "Observation", Say(503, (("Retry-After", "1"),)))
    faulty.change(REFUSED_LONG_AGO)
    assert faulty.commit().counts["created"] == 1, "read at last, and sent: what was refused before counts no more"


def test_a_patient_whose_chart_never_answers_while_others_do_ends_with_a_person(
    make_world: Callable[..., World], line: FaultyLine
) -> None:
    world = make_world(ehr={"base_url": line.base_url})
    many(world, 10)
    refuse(line, {"p009"}, LoseAnswer())
    report = world.commit()
    assert (report.counts["created"], report.trouble) == (9, "")
    world.change(REFUSED_VERY_LONG_AGO)
    world.commit()
    assert ("in_review", None, "read_refused_too_long") in world.intents()


def test_an_ehr_that_is_away_for_two_days_asks_nobody_about_its_patients(
    make_world: Callable[..., World], line: FaultyLine
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "concurrency": 1})
    many(world, 4)
    line.always("POST", "Observation/_search", Say(502))
    report = world.commit()
    assert report.held == "down"
    world.change(REFUSED_LONG_AGO)
    world.change(UP)
    world.commit()
    assert not world.rows("SELECT 1 FROM review.task WHERE tenant = %s")


def test_a_linked_resource_that_may_not_be_read_ends_with_a_person(faulty: World, line: FaultyLine) -> None:
    many(faulty, 3)
    faulty.commit()
    keys = faulty.rows("SELECT business_key, patient_id FROM ledger.intent WHERE tenant = %s ORDER BY patient_id")
    for key, who in keys:
        faulty.approve(heart_rate(who, AT, 80), key=key, revision=2)
    ((refused,),) = faulty.rows("SELECT resource_id FROM ledger.link WHERE tenant = %s AND business_key = %s", keys[0][0])
    line.always("GET", f"Observation/{refused}", refusal(403))
    report = faulty.commit()
    assert (report.counts["updated"], report.trouble) == (2, "")
    faulty.change(REFUSED_LONG_AGO)
    faulty.commit()
    assert ("in_review", None, "read_refused_too_long") in faulty.intents()
