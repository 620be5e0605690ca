"""Demographic matching on a real mirror that commit filled: off, review, auto."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import MakeTenant, OpenLayer

from fhir_writeback_dagster.canonical import Identifier, PatientRef
from fhir_writeback_dagster.commit.mirror.store import write_page
from fhir_writeback_dagster.decide.matching.patients import Match, match_patients

MRN = "urn:example:mrn"
ANN = {"family": "Zelenka", "given": "Marta", "birth_date": "1980-02-01", "sex": "female"}


class Chart:
    """A tenant whose mirror is written as commit writes it."""

    def __init__(self, make_tenant: MakeTenant, open_layer: OpenLayer, probabilistic: str) -> None:
        self._open = open_layer
        self.tenant = make_tenant(matching={"probabilistic": probabilistic})

    def patient(self, patient_id: str, mrn: str = "100", version: str = "1", **changes: Any) -> None:
        resource = {
            "resourceType": "Patient",
            "id": patient_id,
            "meta": {"versionId": version, "lastUpdated": f"2026-01-01T00:00:0{version}Z"},
            "identifier": [{"system": MRN, "value": mrn}],
            "name": [{"family": "Zelenka", "given": ["Marta"]}],
            "birthDate": "1980-02-01",
            "gender": "female",
        } | changes
        with self._open("commit", self.tenant) as run, run.store.tenant(run.id) as connection:
            write_page(connection, run, "Patient", [resource], again=False)

    def match(self, *numbers: str, **demographics: str) -> Match:
        ref = PatientRef(identifiers=tuple(Identifier(system=MRN, value=n) for n in numbers), **demographics)
        with self._open("decide", self.tenant) as run, run.store.tenant(run.id) as connection:
            return match_patients(connection, run, [ref])[0]

    def bearers(self, digest: bytes | None) -> list[str]:
        with self._open("commit", self.tenant) as run, run.store.tenant(run.id) as connection:
            rows = connection.execute(
                "SELECT patient_id FROM mirror.patient_identifier WHERE tenant = %s AND identifier = %s ORDER BY 1",
                (run.id, digest),
            )
            return [patient for (patient,) in rows]


@pytest.fixture
def auto(make_tenant: MakeTenant, open_run: OpenLayer) -> Chart:
    return Chart(make_tenant, open_run, "auto")


def seen(match: Match) -> tuple[str, str | None, str | None, object]:
    return match.outcome, match.patient_id, match.reason, match.evidence.get("because")


def test_off_is_the_default_and_demographics_alone_match_nobody(make_tenant: MakeTenant, open_run: OpenLayer) -> None:
    assert make_tenant().matching.probabilistic == "off"
    chart = Chart(make_tenant, open_run, "off")
    chart.patient("p1")
    assert seen(chart.match(**ANN)) == ("review", None, "no_identifiers", None)
    assert seen(chart.match("999", **ANN)) == ("waiting", None, "patient_unknown", None)


def test_review_tells_a_person_whom_it_found(make_tenant: MakeTenant, open_run: OpenLayer) -> None:
    chart = Chart(make_tenant, open_run, "review")
    chart.patient("p1")
    match = chart.match(**ANN)
    assert seen(match) == ("review", "p1", "demographic_match", "automatic_match_off")
    (candidate,) = match.evidence["candidates"]
    assert candidate["patient_id"] == "p1"
    assert candidate["fields"] == dict.fromkeys(("given", "family", "birth_date", "sex"), "same")


def test_auto_matches_and_names_what_commit_can_verify(auto: Chart) -> None:
    auto.patient("p1")
    auto.patient("p2", mrn="200", name=[{"family": "Ulrichsen", "given": ["Bob"]}], birthDate="1955-07-19", gender="male")
    match = auto.match(**ANN)
    assert seen(match) == ("matched", "p1", None, None)
    assert auto.bearers(match.matched_by) == ["p1"]
    # The chart is corrected: the patient does not bear what matched any more, so the re-check before sending refuses.
    auto.patient("p1", version="2", birthDate="1980-02-02")
    assert auto.bearers(match.matched_by) == []


def test_a_second_patient_of_the_same_name_and_day_is_seen_before_sending(auto: Chart) -> None:
    auto.patient("p1")
    match = auto.match(**ANN)
    auto.patient("p2", mrn="200")
    assert auto.bearers(match.matched_by) == ["p1", "p2"]
    assert seen(auto.match(**ANN)) == ("review", "p1", "demographic_match", "several_candidates")


@pytest.mark.parametrize(
    ("row", "because"),
    [
        ({"given": "Maria"}, "given_name_not_the_same"),
        ({"given": "Berta"}, None),
        ({"birth_date": "1980-01-02"}, None),
        ({"family": "Zelenca"}, None),
        ({"given": "Zelenka", "family": "Marta"}, "not_verifiable"),
        ({"sex": "male"}, None),
    ],
)
def test_what_is_only_alike_never_goes_without_a_person(auto: Chart, row: dict[str, str], because: str | None) -> None:
    auto.patient("p1")
    match = auto.match(**(ANN | row))
    assert match.outcome == "review"
    assert because is None or match.evidence["because"] == because


@pytest.mark.parametrize(
    ("chart", "because"),
    [({"deceasedBoolean": True}, "patient_deceased"), ({"active": False}, "patient_inactive")],
)
def test_the_dead_and_the_inactive_go_to_a_person(auto: Chart, chart: dict[str, Any], because: str) -> None:
    auto.patient("p1", **chart)
    assert seen(auto.match(**ANN)) == ("review", "p1", "demographic_match", because)


def test_another_number_in_the_same_system_goes_to_a_person(auto: Chart) -> None:
    auto.patient("p1")
    assert seen(auto.match("999", **ANN)) == ("review", "p1", "demographic_match", "identifiers_differ")


def test_an_identifier_that_somebody_bears_decides_by_itself(auto: Chart) -> None:
    auto.patient("p1")
    auto.patient("p2", mrn="200", name=[{"family": "Ulrichsen", "given": ["Bob"]}])
    assert seen(auto.match("200", **ANN))[:3] == ("review", "p2", "demographics_differ")


def test_a_stranger_waits(auto: Chart) -> None:
    auto.patient("p1")
    assert seen(auto.match("999", family="Nobody", given="Olaf", birth_date="2001-01-01")) == (
        "waiting",
        None,
        "patient_unknown",
        None,
    )


def test_a_merged_patient_leads_to_the_survivor(auto: Chart) -> None:
    auto.patient("new", mrn="200")
    auto.patient("old", active=False, link=[{"type": "replaced-by", "other": {"reference": "Patient/new"}}])
    assert seen(auto.match(**ANN)) == ("matched", "new", None, None)


def test_a_nickname_meets_and_goes_to_a_person(auto: Chart) -> None:
    auto.patient("p1", name=[{"family": "Ulrichsen", "given": ["Robert"]}], birthDate="1955-07-19", gender="male")
    match = auto.match(family="Ulrichsen", given="Bob", birth_date="1955-07-19")
    assert seen(match) == ("review", "p1", "demographic_match", "not_verifiable")


def test_two_tenants_do_not_see_each_other(make_tenant: MakeTenant, open_run: OpenLayer) -> None:
    one, other = Chart(make_tenant, open_run, "auto"), Chart(make_tenant, open_run, "auto")
    one.patient("p1")
    assert seen(other.match(**ANN))[:3] == ("waiting", None, "patient_unknown")
