"""What the EHR does not take never leaves decide: its vendor's matrix and its own CapabilityStatement are both asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from decide.stage import Stage

Make = Callable[..., Stage]


@pytest.fixture
def stage_on(make_tenant: Any, workplace: Any) -> Make:
    """``stage_on("epic")``: a tenant on that vendor, with patient 100, where everything is permitted."""

    def make(vendor: str, statement: dict[str, Any] | None = None) -> Stage:
        stage = Stage(make_tenant(ehr={"vendor": vendor}, consent={"none_found": "permit"}), workplace)
        stage.mirror({"id": "p1", "mrn": "100"})
        if statement is not None:
            with stage._workplace("commit") as w, w.store.tenant(w.id) as c:
                c.execute(
                    "INSERT INTO mirror.capability (tenant, target, fetched_at, sha256, body) VALUES (%s, 'ehr', %s, '', %s)",
                    (w.id, stage.now, json.dumps(statement)),
                )
        return stage

    return make


def statement(**interactions: list[str]) -> dict[str, Any]:
    resources = [{"type": name, "interaction": [{"code": code} for code in codes]} for name, codes in interactions.items()]
    return {"resourceType": "CapabilityStatement", "rest": [{"mode": "server", "resource": resources}]}


def test_a_vendor_that_takes_no_writes_gets_none(stage_on: Make) -> None:
    stage = stage_on("nextgen")
    record = stage.tell()
    stage.decide()
    assert stage.end_of(record) == ("denied", "target_cannot_create")
    assert stage.rows("SELECT count(*) AS n FROM decision.outbox") == [{"n": 0}]


def test_what_the_matrix_allows_and_this_server_does_not_list_is_refused(stage_on: Make) -> None:
    stage = stage_on("epic", statement(Observation=["read", "search-type"], Condition=["create"]))
    record = stage.tell()
    stage.decide()
    assert stage.end_of(record) == ("denied", "target_cannot_create")


def test_what_both_allow_is_approved(stage_on: Make) -> None:
    stage = stage_on("epic", statement(Observation=["read", "create", "update"]))
    record = stage.tell()
    stage.decide()
    assert stage.end_of(record)[0] == "approved"


def test_what_cannot_be_corrected_there_goes_to_a_person(stage_on: Make) -> None:
    stage = stage_on("epic", statement(Observation=["read", "create"]))
    first = stage.tell(value=72)
    stage.decide()
    second = stage.tell(value=80)
    stage.decide()
    assert stage.end_of(first)[0] == "approved"
    assert stage.end_of(second) == ("in_review", "target_cannot_update")
