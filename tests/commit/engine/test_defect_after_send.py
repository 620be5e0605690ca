"""A defect of ours after a request has left says nothing of the request: it is looked for, like one without an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from commit.faults import FaultyLine, Twist
from commit.world import World, heart_rate, patient

from fhir_writeback_dagster.commit.engine.sending import Sender

AT = "2024-03-01T10:00:00Z"


def test_a_version_that_no_database_takes_costs_nothing_and_the_next_revision_is_an_update(
    faulty: World, line: FaultyLine
) -> None:
    faulty.load(patient("a", "a"))
    first = faulty.approve(heart_rate("a", AT, 72))

    def spoilt(status: int, headers: Any, body: bytes) -> Any:
        found = json.loads(body)
        found["meta"]["versionId"] = "1\x00"
        return status, headers, json.dumps(found).encode()

    line.on("POST", "Observation", Twist(spoilt))
    faulty.commit()
    assert faulty.intents() == [("committed", "created", None)]
    faulty.approve(heart_rate("a", AT, 80), key=first.business_key, revision=2)
    faulty.commit()
    assert faulty.intents()[1][:2] == ("committed", "updated")
    assert len(faulty.in_ehr(first.business_key)) == 1


def test_what_was_under_way_when_its_group_failed_is_looked_for(faulty: World, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty.load(patient("a", "a"))
    faulty.approve(heart_rate("a", AT, 72))
    exchange = Sender._exchange
    failed: list[object] = []

    async def fails_once(self: Sender, *args: Any) -> Any:
        answer = await exchange(self, *args)
        if not failed:
            failed.append(answer)
            raise KeyError("a defect")
        return answer

    monkeypatch.setattr(Sender, "_exchange", fails_once)
    faulty.commit()
    assert faulty.intents() == [("committed", "reconciled", "found")]
