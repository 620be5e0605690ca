"""An answer is ours only if it says so: by our key and the patient, never by its place among others."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from commit.faults import FaultyLine, First, LoseAnswer, Say, Twist
from commit.world import Candidate, Resource, World, heart_rate, patient

AT = "2024-03-01T10:00:00Z"
LINKS = "SELECT business_key, resource_id FROM ledger.link WHERE tenant = %s"

Bundle = dict[str, Any]


def _batch(how: Callable[[Bundle], Bundle | None]) -> Twist:
    """The answer to a bundle is changed by ``how``."""

    def twist(status: int, headers: Any, body: bytes) -> Any:
        bundle = json.loads(body)
        return status, headers, json.dumps(how(bundle) or bundle).encode()

    return Twist(twist)


def _shown(other: Resource, **headers: str) -> Twist:
    """The server acts on it, and its answer shows ``other``."""

    def twist(status: int, told: Any, _: bytes) -> Any:
        kept = [(name, value) for name, value in told if name.lower() not in {*headers, "etag"}]
        return status, kept + list(headers.items()), json.dumps(other).encode()

    return Twist(twist)


def _links_are_right(world: World, wanted: list[Candidate]) -> None:
    linked: dict[str, Any] = dict(world.rows(LINKS))
    assert linked == {c.business_key: world.in_ehr(c.business_key)[0]["id"] for c in wanted}


@pytest.fixture
def batches(make_world: Callable[..., World], line: FaultyLine) -> World:
    made = make_world(ehr={"base_url": line.base_url, "bundle_size": 10})
    made.load(*(patient(f"p{n}", f"p{n}") for n in range(4)))
    return made


def _approve(world: World, count: int = 4) -> list[Candidate]:
    return world.approve_all([heart_rate(f"p{n % 4}", f"2024-03-01T10:0{n}:00Z", 60 + n) for n in range(count)])


def _reverse(bundle: Bundle) -> None:
    bundle["entry"].reverse()


def _swap_bodies(bundle: Bundle) -> None:
    one, other = bundle["entry"][:2]
    one["resource"], other["resource"] = other["resource"], one["resource"]


def _bodies_of_the_first(bundle: Bundle) -> None:
    for entry in bundle["entry"]:
        entry["resource"] = bundle["entry"][0]["resource"]


def _all_the_first(bundle: Bundle) -> None:
    bundle["entry"] = [bundle["entry"][0]] * len(bundle["entry"])


@pytest.mark.parametrize("how", [_reverse, _swap_bodies, _bodies_of_the_first, _all_the_first])
def test_answers_in_another_order_or_with_anothers_body_swap_no_links(
    batches: World, line: FaultyLine, how: Callable[[Bundle], None]
) -> None:
    wanted = _approve(batches)
    line.on("POST", "", _batch(how))
    batches.commit()
    assert {state for state, *_ in batches.intents()} == {"committed"}
    _links_are_right(batches, wanted)
    # And what was the worst: the next revision of one patient's is written to no other patient's.
    batches.approve(heart_rate("p0", "2024-03-01T10:00:00Z", 99), key=wanted[0].business_key, revision=2)
    batches.commit()
    assert [batches.in_ehr(c.business_key)[0]["valueQuantity"]["value"] for c in wanted] == [99, 61, 62, 63]


def test_answers_in_another_order_that_show_no_resource_are_told_apart_by_what_location_names(
    batches: World, line: FaultyLine
) -> None:
    wanted = _approve(batches)

    def bare(bundle: Bundle) -> None:
        bundle["entry"] = [{"response": entry["response"]} for entry in reversed(bundle["entry"])]

    line.on("POST", "", _batch(bare))
    assert batches.commit().counts["created"] == 4
    _links_are_right(batches, wanted)


def test_an_entry_too_few_leaves_only_its_own_in_doubt(batches: World, line: FaultyLine) -> None:
    wanted = _approve(batches)

    def fewer(bundle: Bundle) -> None:
        del bundle["entry"][1]

    line.on("POST", "", _batch(fewer))
    report = batches.commit()
    assert (report.counts["created"], report.counts["reconciled"]) == (3, 1)
    _links_are_right(batches, wanted)


def test_a_refusal_among_answers_in_another_order_is_taken_for_nobodys_but_who_is_left(batches: World, line: FaultyLine) -> None:
    wanted = _approve(batches, 3)
    bad = heart_rate("p3", "2024-03-01T11:00:00Z", 70)
    del bad["status"]
    refused = batches.approve(bad)
    line.on("POST", "", _batch(_reverse))
    batches.commit()
    states: dict[str, Any] = dict(batches.rows("SELECT business_key, state FROM ledger.intent WHERE tenant = %s"))
    assert states == {**{c.business_key: "committed" for c in wanted}, refused.business_key: "quarantined"}
    _links_are_right(batches, wanted)


def test_refusals_that_differ_and_name_nobody_are_looked_into_one_by_one(batches: World, line: FaultyLine) -> None:
    wanted = _approve(batches)
    issue = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "invalid"}]}

    def mixed(bundle: Bundle) -> None:
        bundle["entry"][0] = {"response": {"status": "422", "outcome": issue}}
        bundle["entry"][1] = {"response": {"status": "403", "outcome": issue}}

    line.on("POST", "", _batch(mixed))
    report = batches.commit()
    assert (report.counts["created"], report.counts["reconciled"]) == (2, 2)
    _links_are_right(batches, wanted)


def test_a_created_that_shows_another_patients_resource_is_no_answer(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"), patient("b", "b"))
    other = faulty.ehr.chart.create(heart_rate("b", AT, 50))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", _shown(other, location=f"{line.base_url}/Observation/{other['id']}"))
    faulty.commit()
    assert faulty.intents()[0][0] == "committed"
    _links_are_right(faulty, [wanted])


def test_a_created_whose_body_is_anothers_and_whose_location_is_ours_is_read_there(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"), patient("b", "b"))
    other = faulty.ehr.chart.create(heart_rate("b", AT, 50))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", _shown(other))
    assert faulty.commit().counts["created"] == 1
    _links_are_right(faulty, [wanted])


def test_an_existed_that_shows_anothers_resource_is_no_answer(faulty: World, line: FaultyLine) -> None:
    """A server that does not know the condition's parameter finds everything (Spark #520)."""
    faulty.load(patient("a", "a"), patient("b", "b"))
    other = faulty.ehr.chart.create(heart_rate("b", AT, 72))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", Say(200, (("Content-Type", "application/fhir+json"),), json.dumps(other).encode()))
    faulty.commit()
    assert faulty.intents()[0][:2] in {("committed", "created"), ("committed", "reconciled")}
    _links_are_right(faulty, [wanted])


def test_an_updated_that_shows_anothers_resource_moves_no_link(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"), patient("b", "b"))
    other = faulty.ehr.chart.create(heart_rate("b", AT, 80))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    faulty.commit()
    faulty.approve(heart_rate("a", AT, 80), key=wanted.business_key, revision=2)
    line.on("PATCH", "Observation", _shown(other))
    faulty.commit()
    assert faulty.intents()[1][:2] == ("committed", "updated")
    _links_are_right(faulty, [wanted])


def test_a_read_back_that_shows_anothers_resource_is_no_proof(make_world: Callable[..., World], line: FaultyLine) -> None:
    world = make_world(ehr={"base_url": line.base_url, "vendor": "us_core"})
    world.load(patient("a", "a"), patient("b", "b"))
    wanted = world.approve(heart_rate("a", AT, 72))

    def moved(status: int, headers: Any, body: bytes) -> Any:
        return status, headers, body.replace(b"Patient/a", b"Patient/b")

    line.on("GET", "Observation", Twist(moved))
    world.commit()
    assert world.intents() == [("committed", "reconciled", "found")]
    _links_are_right(world, [wanted])


@pytest.mark.parametrize("what", ["subject", "key", "no subject"])
@pytest.mark.parametrize("origin", ["value", "retraction"])
def test_no_update_goes_to_what_is_not_the_patients_or_bears_another_key_whatever_a_link_says(
    faulty: World, line: FaultyLine, what: str, origin: str
) -> None:
    faulty.load(patient("a", "a"), patient("b", "b"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    faulty.commit()
    ours = faulty.in_ehr(wanted.business_key)[0]
    stranger = {name: value for name, value in ours.items() if name not in ("id", "meta")}
    if what == "subject":
        stranger["subject"] = {"reference": "Patient/b"}
    elif what == "no subject":
        del stranger["subject"]
    else:
        stranger["identifier"] = [{"system": faulty.tenant.identifier_system, "value": "another-key"}]
    stranger = faulty.ehr.chart.create(stranger)
    base = faulty.run.sealer.seal_json("ledger.link", f"{faulty.tenant.ehr.target}|{wanted.business_key}", stranger)
    faulty.change(
        "UPDATE ledger.link SET resource_id = x.id, base = x.base, version_id = '1' "
        "FROM (SELECT %s AS tenant, %s AS id, %s::bytea AS base) x WHERE link.tenant = x.tenant",
        stranger["id"],
        base,
    )
    newer = heart_rate("a", AT, 80) if origin == "value" else heart_rate("a", AT, 72, status="entered-in-error")
    faulty.approve(newer, key=wanted.business_key, revision=2)
    faulty.commit()
    reason = "bears_another_key" if what == "key" else "another_patient"
    assert faulty.intents()[1] == ("in_review", None, reason)
    assert line.sent("PATCH") == line.sent("PUT") == []
    assert faulty.rows("SELECT reason, evidence->'resources' FROM review.task WHERE tenant = %s") == [
        (reason, [f"Observation/{stranger['id']}"])
    ]


def test_a_patch_of_what_became_anothers_meanwhile_fails_where_if_match_is_ignored(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"), patient("b", "b"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    faulty.commit()
    (ours,) = faulty.in_ehr(wanted.business_key)
    faulty.approve(heart_rate("a", AT, 80), key=wanted.business_key, revision=2)
    line.ignores.add("if-match")
    moved = {**ours, "subject": {"reference": "Patient/b"}}
    line.on("PATCH", "Observation", First(lambda: faulty.ehr.chart.update(moved)))
    faulty.commit()
    assert faulty.intents()[1][0] == "in_review"
    (found,) = faulty.in_ehr(wanted.business_key)
    assert (found["subject"]["reference"], found["valueQuantity"]["value"]) == ("Patient/b", 72)


@pytest.mark.parametrize("fault", [LoseAnswer(), Twist(lambda *_: (503, [("Retry-After", "0")], b""))])
def test_an_ehr_that_keeps_our_identifier_though_its_matrix_says_no_gets_no_second_one(
    make_world: Callable[..., World], line: FaultyLine, fault: LoseAnswer | Twist
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "vendor": "epic"})
    world.load(patient("a", "a"))
    wanted = world.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", fault)
    world.commit()
    assert world.intents()[0][:2] == ("committed", "reconciled")
    _links_are_right(world, [wanted])
