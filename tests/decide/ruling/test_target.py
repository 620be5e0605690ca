"""What the EHR does not take never leaves decide: its vendor's matrix and its own CapabilityStatement are both asked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from decide.stage import Stage, capabilities

Make = Callable[..., Stage]


def loinc(code: str) -> dict[str, Any]:
    return {"codings": [{"system": "http://loinc.org", "code": code}]}


def celsius(value: int) -> dict[str, Any]:
    return {"value": str(value), "unit": "Cel", "code": "Cel"}


@pytest.fixture
def stage_on(make_tenant: Any, open_run: Any) -> Make:
    """``stage_on("epic")``: a tenant on that vendor, with patient 100, where everything is permitted."""

    def make(vendor: str, statement: dict[str, Any] | None = None, **ehr: Any) -> Stage:
        stage = Stage(make_tenant(ehr={"vendor": vendor, **ehr}, consent={"none_found": "permit"}), open_run)
        stage.mirror({"id": "p1", "mrn": "100"}, statement=statement)
        return stage

    return make


def test_a_vendor_that_takes_no_writes_gets_none(stage_on: Make) -> None:
    stage = stage_on("nextgen")
    record = stage.tell()
    stage.decide()
    assert stage.end_of(record) == ("denied", "target_cannot_create")
    assert stage.rows("SELECT count(*) AS n FROM decision.outbox") == [{"n": 0}]


def test_what_the_matrix_allows_and_this_server_does_not_list_is_refused(stage_on: Make) -> None:
    stage = stage_on("epic", capabilities(Observation=["read", "search-type"], Condition=["create"]))
    record = stage.tell()
    stage.decide()
    stage.look_up()
    stage.decide()
    assert stage.end_of(record) == ("denied", "target_cannot_create")


def test_what_both_allow_is_approved(stage_on: Make) -> None:
    stage = stage_on("epic", capabilities(Observation=["read", "create", "update"]))
    record = stage.tell()
    stage.decide()
    stage.look_up()
    stage.decide()
    assert stage.end_of(record)[0] == "approved"


def test_what_cannot_be_corrected_there_goes_to_a_person(stage_on: Make) -> None:
    stage = stage_on("epic", capabilities(Observation=["read", "create"]))
    first = stage.tell(value=72)
    stage.decide()
    stage.look_up()
    stage.decide()
    second = stage.tell(value=80)
    stage.decide()
    assert stage.end_of(first)[0] == "approved"
    assert stage.end_of(second) == ("in_review", "target_cannot_update")


@pytest.mark.parametrize("told", [{}, {"rest": []}, {"rest": [{"mode": "server"}]}, capabilities(Patient=["read"])])
def test_a_server_of_which_nobody_knows_anything_is_not_written_to(stage_on: Make, told: dict[str, Any]) -> None:
    stage = stage_on("generic", told)
    record = stage.tell()
    stage.decide()
    assert stage.end_of(record) == ("denied", "target_cannot_create")


def test_what_only_the_capability_statement_can_allow_waits_until_the_mirror_has_read_it(stage_on: Make) -> None:
    stage = stage_on("generic")
    record = stage.tell()
    stage.decide()
    assert stage.end_of(record) == ("waiting", "target_not_read")
    stage.now += timedelta(minutes=5)
    stage.mirror(statement=capabilities(Observation=["create", "read"]))
    stage.decide()
    assert stage.end_of(record)[0] == "approved"


@pytest.mark.parametrize(
    ("told", "end"),
    [
        ({}, ("approved", None)),
        ({"code": loinc("59408-5")}, ("denied", "no_vital_of_the_ehr")),  # a saturation
        ({"code": loinc("8310-5"), "quantity": celsius(37)}, ("denied", "no_vital_of_the_ehr")),
        ({"code": loinc("29463-7"), "quantity": {"value": "72", "unit": "kg", "code": "kg"}}, ("denied", "unit_not_taken")),
    ],
    ids=["heart rate", "saturation", "temperature", "a weight in kilograms"],
)
def test_what_the_ehrs_own_api_has_no_place_for_is_denied(stage_on: Make, told: dict[str, Any], end: Any) -> None:
    stage = stage_on("athenahealth", vendor_settings={"practice": "1", "department": "1"})
    record = stage.tell(**told)
    stage.decide()
    assert stage.end_of(record) == end
    assert stage.rows("SELECT count(*) AS n FROM decision.outbox") == [{"n": int(end[0] == "approved")}]
