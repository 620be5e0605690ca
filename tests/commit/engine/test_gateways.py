"""What stands between us and the EHR answers in its place: that is evidence about the way, and about nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import CliRunner
from commit.faults import FaultyLine, Say
from commit.world import World, heart_rate, patient

AT = "2024-03-01T10:00:00Z"
HTML = (("Content-Type", "text/html"),)
JSON = (("Content-Type", "application/json"),)
FHIR = (("Content-Type", "application/fhir+json"),)
PAGE = b"<html><body>not here</body></html>"
NOT_FOUND = Say(404, FHIR, b'{"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "not-found"}]}')
GATEWAYS = {
    "404 with HTML": Say(404, HTML, PAGE),
    "404 with nothing": Say(404),
    "404 of an API manager": Say(404, JSON, b'{"message": "no Route matched with those values"}'),
    "302 to a login": Say(302, (("Location", "https://login.example/"),)),
    "405 with HTML": Say(405, HTML, PAGE),
    "403 of a firewall": Say(403, HTML, PAGE),
    "200 with HTML": Say(200, HTML, PAGE),
    "410 with HTML": Say(410, HTML, PAGE),
}


def let_go(world: World) -> None:
    """The target's hold is over, and what waits is due."""
    world.change("UPDATE ledger.target SET held_until = NULL, held_because = NULL WHERE tenant = %s")
    world.change("UPDATE ledger.work SET not_before = now() WHERE tenant = %s")


def until_all_is_written(world: World, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while any(state != "committed" for state, _, _ in world.intents()) and time.monotonic() < end:
        let_go(world)
        world.commit()


@pytest.mark.parametrize("gateway", GATEWAYS.values(), ids=list(GATEWAYS))
def test_good_writes_outlive_a_gateway_that_answers_for_the_ehr(faulty: World, line: FaultyLine, gateway: Say) -> None:
    names = [f"p{number}" for number in range(30)]
    faulty.load(*(patient(name, name) for name in names))
    faulty.refresh()
    faulty.approve_all([heart_rate(name, AT, 72) for name in names])
    line.rules.append(lambda seen: gateway if (seen.method, seen.path) == ("POST", "Observation") else None)
    report = faulty.commit(deadline_s=20)
    assert (report.trouble, report.held) == ("gateway", "down")
    assert len(line.sent("POST", "Observation")) < len(names), "the circuit opened"
    assert {state for state, _, _ in faulty.intents()} <= {"ready", "unknown", "retry_wait"}
    line.rules.clear()
    until_all_is_written(faulty)
    assert {state for state, _, _ in faulty.intents()} == {"committed"}
    assert len(faulty.ehr.search("Observation")) == len(names)


def linked(world: World) -> str:
    """One resource that we have written, and a correction of it that waits; returns the resource's place."""
    world.load(patient("a", "a"))
    first = world.approve(heart_rate("a", AT, 72))
    world.commit()
    world.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    ((resource_id,),) = world.rows("SELECT resource_id FROM ledger.link WHERE tenant = %s")
    return f"Observation/{resource_id}"


def link_state(world: World) -> str:
    ((state,),) = world.rows("SELECT state FROM ledger.link WHERE tenant = %s")
    return str(state)


@pytest.mark.parametrize("gateway", GATEWAYS.values(), ids=list(GATEWAYS))
def test_a_gateways_answer_to_a_read_deletes_no_link(faulty: World, line: FaultyLine, gateway: Say) -> None:
    place = linked(faulty)
    line.on("GET", place, gateway, gateway)
    for _ in range(2):
        faulty.commit(deadline_s=1)
        let_go(faulty)
    assert link_state(faulty) == "active"
    until_all_is_written(faulty)
    assert faulty.intents()[1] == ("committed", "updated", None)


def test_not_found_is_a_deletion_only_when_it_is_said_again_later(faulty: World, line: FaultyLine) -> None:
    place = linked(faulty)
    line.on("GET", place, NOT_FOUND)
    faulty.commit(deadline_s=0.5)
    assert (faulty.intents()[1][0], link_state(faulty)) == ("retry_wait", "active")
    ((wait,),) = faulty.rows("SELECT extract(epoch FROM not_before - now()) FROM ledger.work WHERE tenant = %s")
    assert wait > 0, "a second look, and later"
    until_all_is_written(faulty)
    assert faulty.intents()[1] == ("committed", "updated", None), "it was there"


def test_not_found_twice_is_a_deletion(faulty: World, line: FaultyLine) -> None:
    place = linked(faulty)
    line.on("GET", place, NOT_FOUND, NOT_FOUND)
    for _ in range(2):
        faulty.commit(deadline_s=1)
        let_go(faulty)
    assert (faulty.intents()[1], link_state(faulty)) == (("in_review", None, "deleted_in_ehr"), "deleted")


def test_gone_is_a_deletion_at_once(faulty: World) -> None:
    place = linked(faulty)
    faulty.ehr.chart.delete(*place.split("/"))
    faulty.commit(deadline_s=5)
    assert (faulty.intents()[1], link_state(faulty)) == (("in_review", None, "deleted_in_ehr"), "deleted")


def test_one_write_that_the_gateway_never_lets_through_ends_and_can_be_released_in_bulk(faulty: World, line: FaultyLine) -> None:
    """A firewall that dislikes one text: the others go on, and the one is given up with the gateway as its reason."""
    faulty.load(patient("a", "a"), patient("b", "b"))
    blocked = faulty.approve(heart_rate("a", AT, 66.6))
    faulty.approve(heart_rate("b", AT, 72))
    line.rules.append(lambda seen: GATEWAYS["403 of a firewall"] if b"66.6" in seen.body else None)
    faulty.commit(deadline_s=5)
    end = time.monotonic() + 120
    while faulty.rows("SELECT 1 FROM ledger.work WHERE tenant = %s") and time.monotonic() < end:
        let_go(faulty)
        faulty.commit(deadline_s=1)
    assert sorted(faulty.intents()) == [("committed", "created", None), ("quarantined", None, "gateway")]
    line.rules.clear()

    from fhir_writeback_dagster.commit.commands.quarantine_commands import release_command

    @contextmanager
    def desk(layer: str, tenant: str | None) -> Iterator[Iterator[Any]]:
        assert (layer, tenant) == ("commit", None)
        yield iter([faulty.run])

    def typed(*arguments: str) -> list[dict[str, Any]]:
        result = CliRunner().invoke(release_command, ["--reason", "gateway", "--by", "ada", "--json", *arguments], obj=desk)
        assert result.exit_code == 0, result.output
        return [json.loads(row) for row in result.stdout.splitlines()]

    told = {"tenant": faulty.run.id, "reason": "gateway", "released": 1}
    assert typed("--dry-run") == [{**told, "dry_run": True}]
    assert faulty.owner_rows("SELECT state FROM quarantine.item WHERE tenant = %s") == [("open",)]
    assert typed() == [{**told, "dry_run": False}]
    assert typed() == [{**told, "released": 0, "dry_run": False}]
    assert faulty.owner_rows("SELECT state FROM quarantine.item WHERE tenant = %s") == [("released",)]
    assert ("withdrawn", None, "released") in faulty.intents()
    assert faulty.rows("SELECT candidate_id FROM ledger.outbox WHERE tenant = %s") == [(blocked.candidate_id,)]
    ((intent,),) = faulty.rows("SELECT intent_id FROM ledger.intent WHERE tenant = %s AND state = 'withdrawn'")
    assert faulty.events(intent)[-1] == "intent.withdrawn"
    ((who,),) = faulty.owner_rows(
        "SELECT detail->>'by' FROM audit.event WHERE tenant = %s AND subject = %s ORDER BY id DESC LIMIT 1", str(intent)
    )
    assert who == "ada"
