"""What the EHR acknowledged stands there: it is read where `Location` says, and is never absent, whatever a search says."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from commit.faults import FaultyLine, Say, Twist
from commit.world import World, heart_rate, patient

AT = "2024-03-01T10:00:00Z"
DUE = "UPDATE ledger.work SET not_before = now() WHERE tenant = %s"
LONG_AGO = "UPDATE ledger.work SET not_before = now(), sent_at = now() - interval '8 days' WHERE tenant = %s"
NOTHING = {"resourceType": "Bundle", "type": "searchset", "total": 0, "link": []}


def _bare(location: Callable[[str], str | None], status: int | None = None) -> Twist:
    """The server acts on it, and its answer has no body; ``location`` makes of the id what stands in the header."""

    def twist(told: int, headers: Any, body: bytes) -> Any:
        named = location(json.loads(body)["id"])
        kept = [(name, value) for name, value in headers if name.lower() not in ("location", "etag", "content-type")]
        return status or told, [*kept, *([("Location", named)] if named else [])], b""

    return Twist(twist)


def _searches_find_nothing(line: FaultyLine) -> None:
    """As an index does that lags for longer than anybody waits."""
    empty = Say(200, (("Content-Type", "application/fhir+json"),), json.dumps(NOTHING).encode())
    line.rules.insert(0, lambda seen: empty if seen.path == "Observation/_search" else None)


FORMS: dict[str, Callable[[str], str]] = {
    "absolute": lambda one: f"http://127.0.0.1/fhir/Observation/{one}",
    "another host": lambda one: f"https://ehr.internal:8443/r4/Observation/{one}/_history/1",
    "relative": lambda one: f"Observation/{one}",
    "relative with version": lambda one: f"Observation/{one}/_history/1",
    "from the root": lambda one: f"/fhir/Observation/{one}/_history/1",
    "slash at the end": lambda one: f"Observation/{one}/",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("status", [201, 200])
def test_what_location_names_is_read_though_no_search_finds_it(faulty: World, line: FaultyLine, form: str, status: int) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72))
    _searches_find_nothing(line)
    line.on("POST", "Observation", _bare(FORMS[form], status))
    faulty.commit()
    ((state, outcome, _),) = faulty.intents()
    assert (state, outcome) == ("committed", "created" if status == 201 else "suppressed")
    (there,) = faulty.ehr.search("Observation", subject="Patient/a")
    assert faulty.rows("SELECT resource_id, origin FROM ledger.link WHERE tenant = %s") == [(there["id"], "ours")]
    assert len(line.sent("POST", "Observation")) == 1


@pytest.mark.parametrize("status", [404, 500, 503])
def test_what_cannot_be_read_yet_waits_and_is_never_sent_again(faulty: World, line: FaultyLine, status: int) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72))
    _searches_find_nothing(line)
    blind: list[Any] = [lambda seen: Say(status) if seen.method == "GET" and seen.path.startswith("Observation/") else None]
    line.rules += blind
    line.on("POST", "Observation", _bare(FORMS["relative"]))
    assert faulty.commit().waiting == {"pending_target": 1}
    faulty.change(DUE)
    faulty.change("UPDATE ledger.target SET held_until = now() WHERE tenant = %s")
    assert faulty.commit().waiting in ({"pending_target": 1}, {"unknown": 1})
    # Searches never find it, and the read by its id does in the end.
    line.rules.remove(blind[0])
    faulty.change(DUE)
    faulty.change("UPDATE ledger.target SET held_until = now() WHERE tenant = %s")
    faulty.commit()
    assert faulty.intents()[0][:2] == ("committed", "reconciled")
    assert len(line.sent("POST", "Observation")) == 1


@pytest.mark.parametrize("named", [True, False])
def test_what_is_never_shown_goes_to_a_person_and_is_never_sent_again(faulty: World, line: FaultyLine, named: bool) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72))
    _searches_find_nothing(line)
    line.rules.append(lambda seen: Say(404) if seen.method == "GET" and seen.path.startswith("Observation/") else None)
    line.on("POST", "Observation", _bare(FORMS["absolute"] if named else lambda _: None))
    assert faulty.commit().waiting == {"pending_target": 1}
    faulty.change(LONG_AGO)
    faulty.commit()
    assert faulty.intents() == [("in_review", None, "pending_too_long")]
    ((evidence,),) = faulty.rows("SELECT evidence FROM review.task WHERE tenant = %s")
    (there,) = faulty.ehr.search("Observation", subject="Patient/a")
    assert evidence == ({"resources": [f"Observation/{there['id']}"]} if named else {})
    assert len(line.sent("POST", "Observation")) == 1


def test_a_batch_that_is_acknowledged_without_bodies_is_made_once(make_world: Callable[..., World], line: FaultyLine) -> None:
    world = make_world(ehr={"base_url": line.base_url, "bundle_size": 10})
    world.load(patient("a", "a"), patient("b", "b"))
    wanted = world.approve_all([heart_rate(who, AT, 72) for who in ("a", "b")])

    def bare(status: int, headers: Any, body: bytes) -> Any:
        bundle = json.loads(body)
        bundle["entry"] = [{"response": entry["response"]} for entry in bundle["entry"]]
        return status, headers, json.dumps(bundle).encode()

    _searches_find_nothing(line)
    line.on("POST", "", Twist(bare))
    assert world.commit().counts["created"] == 2
    linked: dict[str, Any] = dict(world.rows("SELECT business_key, resource_id FROM ledger.link WHERE tenant = %s"))
    assert linked == {c.business_key: world.in_ehr(c.business_key)[0]["id"] for c in wanted}


def test_a_location_that_leads_nowhere_is_not_followed_out_of_the_ehr(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72))
    line.on("POST", "Observation", _bare(lambda one: f"https://elsewhere.example/Observation/{one}?next=Patient/../../x"))
    faulty.commit()
    assert faulty.intents()[0][0] == "committed"
    assert all(".." not in seen.path for seen in line.seen)


def test_the_quiet_period_is_waited_for_where_a_refusal_is_followed_by_a_search(
    make_world: Callable[..., World], line: FaultyLine
) -> None:
    """A 503 with Retry-After after the EHR acted, no condition on the create, and a search that lags for the quiet period."""
    world = make_world(ehr={"base_url": line.base_url, "vendor": "us_core", "quiet": "4s"})
    world.load(patient("a", "a"))
    world.refresh()
    wanted = world.approve(heart_rate("a", AT, 72))
    world.change(
        "UPDATE mirror.capability SET body = jsonb_set(body, '{rest,0,resource}', (SELECT jsonb_agg(r || "
        "'{\"conditionalCreate\": false}') FROM jsonb_array_elements(body #> '{rest,0,resource}') r)) WHERE tenant = %s"
    )
    line.on("POST", "Observation", Twist(lambda *_: (503, [("Retry-After", "0")], b"")))
    world.commit(deadline_s=2)
    ((rest,),) = world.rows("SELECT not_before - sent_at FROM ledger.work WHERE tenant = %s")
    assert rest >= timedelta(seconds=4)
    assert len(world.in_ehr(wanted.business_key)) == 1
