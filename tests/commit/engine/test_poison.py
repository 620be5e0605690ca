"""One item that cannot be dealt with stops none of the others; a database that goes away loses nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from commit.faults import FaultyLine, First, Twist, refusal
from commit.world import World, consent, heart_rate, patient

from fhir_writeback_dagster.commit.adapters.generic import Generic
from fhir_writeback_dagster.commit.ledger import async_database
from fhir_writeback_dagster.errors import ServiceError

AT = "2024-03-01T10:00:00Z"


def _two(world: World) -> None:
    world.load(patient("a", "a"), patient("b", "b"))
    world.refresh()
    world.approve_all([heart_rate("a", AT, 72), heart_rate("b", AT, 73)])


@pytest.mark.parametrize(("column", "reason"), [("payload", "payload_gone"), ("context", "context_unreadable")])
def test_what_cannot_be_opened_any_more_is_quarantined_alone(world: World, column: str, reason: str) -> None:
    _two(world)
    world.change(
        f"UPDATE decision.candidate SET {column} = set_byte({column}, 20, get_byte({column}, 20) # 255) "
        "WHERE tenant = %s AND patient_id = 'a'"
    )
    world.commit()
    assert world.intents() == [("quarantined", None, reason), ("committed", "created", None)]


def test_a_consent_that_cannot_be_opened_any_more_denies_its_patient_and_nobody_else(world: World) -> None:
    world.load(consent("c1", "a"), consent("c2", "b"))
    _two(world)
    world.change(
        "UPDATE mirror.consent SET body = set_byte(body, 20, get_byte(body, 20) # 255) WHERE tenant = %s AND patient_id = 'a'"
    )
    world.commit()
    assert [row[0] for row in world.intents()] == ["withdrawn", "committed"]


def test_a_context_without_what_policy_asks_for_is_quarantined_alone(world: World) -> None:
    _two(world)
    ((candidate,),) = world.rows("SELECT candidate_id FROM decision.candidate WHERE tenant = %s AND patient_id = 'a'")
    sealed = world.decide.sealer.seal_json("decision.candidate.context", candidate, {"policy": {}})
    world.change(
        "UPDATE decision.candidate c SET context = n.context FROM (SELECT %s::text, %s::uuid, %s::bytea) "
        "AS n (tenant, candidate_id, context) WHERE c.tenant = n.tenant AND c.candidate_id = n.candidate_id",
        candidate,
        sealed,
    )
    world.commit()
    assert world.intents()[0] == ("quarantined", None, "context_unreadable")
    assert world.intents()[1][0] == "committed"


def test_a_chart_that_holds_nonsense_is_read_around(faulty: World, line: FaultyLine) -> None:
    _two(faulty)
    nonsense = [
        {"resourceType": "Observation", "id": "1", "subject": "Patient/a", "code": [], "effectiveDateTime": 7},
        {"resourceType": "Observation", "id": "2", "code": {"coding": "x"}, "identifier": "y", "meta": []},
        {"resourceType": "Observation"},
        "text",
    ]

    def add(status: int, headers: Any, body: bytes) -> Any:
        bundle = json.loads(body)
        bundle["entry"] = [*bundle.get("entry", []), *({"resource": one} for one in nonsense), None]
        return status, headers, json.dumps(bundle).encode()

    line.always("POST", "Observation/_search", Twist(add))
    assert faulty.commit().counts["created"] == 2


def test_an_answer_that_makes_us_stumble_is_looked_into(faulty: World, line: FaultyLine, monkeypatch: pytest.MonkeyPatch) -> None:
    _two(faulty)
    first: list[int] = []
    recognise = Generic.recognise

    def stumble(self: Generic, *arguments: Any) -> Any:
        if not first:
            first.append(1)
            raise KeyError("72")
        return recognise(self, *arguments)

    monkeypatch.setattr(Generic, "recognise", stumble)
    report = faulty.commit()
    assert (report.counts["created"], report.counts["reconciled"]) == (1, 1)
    assert len(faulty.ehr.search("Observation")) == 2


def test_a_search_that_the_ehr_refuses_ends_the_run_and_is_said(faulty: World, line: FaultyLine) -> None:
    _two(faulty)
    line.always("POST", "Observation/_search", refusal(403))
    report = faulty.commit()
    assert report.trouble == "forbidden"
    assert set(report.waiting) <= {"ready", "retry_wait"}
    assert faulty.owner_rows("SELECT count(*) FROM quarantine.item WHERE tenant = %s") == [(0,)]


def test_a_database_that_goes_away_and_stays_away_before_the_answer_is_written_loses_nothing(
    faulty: World, line: FaultyLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_database, "PATIENCE_S", 0)
    faulty.load(patient("a", "a"))
    wanted = faulty.approve(heart_rate("a", AT, 72))
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'fw_commit_login' AND %s <> ''"
    line.on("POST", "Observation", First(lambda: faulty.change(cut)))
    with pytest.raises(ServiceError) as raised:
        faulty.commit()
    assert raised.value.code == "database_lost"
    assert faulty.intents() == [("sending", None, None)]
    faulty.change("UPDATE ledger.work SET lease_until = now(), not_before = now() WHERE tenant = %s")
    assert faulty.commit().counts["reconciled"] == 1
    assert len(faulty.in_ehr(wanted.business_key)) == 1
