"""A patient or an encounter that a row names by a URL: the EHR's own, or another server's, which is nobody's."""

from __future__ import annotations

import pytest
from conftest import MakeTenant, OpenLayer
from decide.mirror import VISIT, Mirror, mrn, outcome, ref

from fhir_writeback_dagster.canonical import Identifier
from fhir_writeback_dagster.decide.matching.encounters import EncounterRequest
from fhir_writeback_dagster.decide.matching.patients import EncounterMatch
from fhir_writeback_dagster.rules.fhir.resource_url import URI

EHR = "https://ehr.mercy.example/fhir"


def url(value: str) -> Identifier:
    return Identifier(system=URI, value=value)


@pytest.fixture
def mirror(make_tenant: MakeTenant, open_run: OpenLayer) -> Mirror:
    return Mirror(open_run, make_tenant(None, ehr={"base_url": EHR}))


@pytest.mark.parametrize(
    "told",
    [
        f"{EHR}/Patient/p1",
        f"{EHR}/Patient/p1/_history/2",
        f"{EHR}/Patient/p1/",
        "http://ehr.mercy.example/fhir/Patient/p1",
        "https://EHR.mercy.example:443/fhir/Patient/p1",
    ],
)
def test_the_ehr_s_own_url_is_the_patient_s(mirror: Mirror, told: str) -> None:
    mirror.patient("p1", mrn("100"))
    mirror.patient("p2", mrn("200"))
    (match,) = mirror.match(ref(url(told)))
    assert outcome(match) == ("matched", "p1", None)
    assert match.matched_by is not None


@pytest.mark.parametrize(
    "told",
    [
        "https://ehr.stv.example/fhir/Patient/p1",
        "https://ehr.mercy.example/FHIR/Patient/p1",
        "https://ehr.mercy.example:8443/fhir/Patient/p1",
    ],
)
def test_a_url_of_another_server_is_nobody_s_and_says_so(mirror: Mirror, told: str) -> None:
    mirror.patient("p1", mrn("100"))
    assert outcome(mirror.match(ref(url(told)))[0]) == ("waiting", None, "patient_of_other_server")


def test_a_patient_of_this_ehr_who_is_not_there_yet_waits(mirror: Mirror) -> None:
    assert outcome(mirror.match(ref(url(f"{EHR}/Patient/p1")))[0]) == ("waiting", None, "patient_unknown")


def test_an_ehr_may_know_a_patient_by_another_server_s_url(mirror: Mirror) -> None:
    theirs = "https://registry.example/fhir/Patient/77"
    mirror.patient("p1", mrn("100"), url(theirs))
    known, another = mirror.match(
        ref(url(f"{theirs}/_history/4")), ref(mrn("100"), url("https://registry.example/fhir/Patient/78"))
    )
    assert outcome(known) == ("matched", "p1", None)
    assert outcome(another) == ("review", "p1", "identifiers_differ")


def test_beside_a_number_another_server_s_url_says_nothing(mirror: Mirror) -> None:
    mirror.patient("p1", mrn("100"))
    assert outcome(mirror.match(ref(mrn("100"), url("https://agent.example/Patient/9")))[0]) == ("matched", "p1", None)


def test_a_number_and_a_url_of_two_patients_go_to_a_person(mirror: Mirror) -> None:
    mirror.patient("p1", mrn("100"))
    mirror.patient("p2", mrn("200"))
    assert outcome(mirror.match(ref(mrn("100"), url(f"{EHR}/Patient/p2")))[0]) == ("review", None, "several_patients")


def test_a_number_beside_a_url_of_this_ehr_that_nobody_has_goes_to_a_person(mirror: Mirror) -> None:
    mirror.patient("p1", mrn("100"))
    assert outcome(mirror.match(ref(mrn("100"), url(f"{EHR}/Patient/p9")))[0]) == ("review", "p1", "identifiers_differ")


def test_the_url_of_who_was_merged_leads_to_the_survivor(mirror: Mirror) -> None:
    mirror.patient("old", mrn("100"), active=False, replaced_by="new")
    mirror.patient("new", mrn("200"))
    assert outcome(mirror.match(ref(url(f"{EHR}/Patient/old")))[0]) == ("matched", "new", None)


def test_demographics_do_not_overrule_a_url_of_this_ehr(make_tenant: MakeTenant, open_run: OpenLayer) -> None:
    tenant = make_tenant(None, ehr={"base_url": EHR}, matching={"probabilistic": "auto"})
    mirror = Mirror(open_run, tenant)
    mirror.patient("p1", mrn("100"))
    ann = {"family": "Smith", "given": "Ann", "birth_date": "1980-02-01", "sex": "female"}
    (match,) = mirror.match(ref(url(f"{EHR}/Patient/p9"), **ann))
    assert outcome(match) == ("review", "p1", "demographic_match")
    assert match.evidence["because"] == "identifiers_differ"


def test_evidence_holds_no_url(mirror: Mirror) -> None:
    mirror.patient("p1", mrn("100"))
    for match in mirror.match(ref(url(f"{EHR}/Patient/p9")), ref(mrn("100"), url(f"{EHR}/Patient/p9"))):
        assert "p9" not in repr(match.evidence)


class TestEncounters:
    def ask(self, mirror: Mirror, *identifiers: Identifier, patient: str = "p1") -> EncounterMatch:
        return mirror.ask_encounters(EncounterRequest(identifiers, patient))[0]

    def test_by_the_ehr_s_own_url(self, mirror: Mirror) -> None:
        mirror.encounter("e1", "1", "p1")
        assert self.ask(mirror, url(f"{EHR}/Encounter/e1/_history/3")).encounter_id == "e1"

    @pytest.mark.parametrize("told", [f"{EHR}/Encounter/e9", "https://ehr.stv.example/fhir/Encounter/e1"])
    def test_an_unknown_one_is_waited_for(self, mirror: Mirror, told: str) -> None:
        mirror.encounter("e1", "1", "p1")
        assert self.ask(mirror, url(told)) == EncounterMatch("waiting", reason="encounter_unknown")

    def test_one_of_another_patient_goes_to_a_person(self, mirror: Mirror) -> None:
        mirror.encounter("e2", "2", "p2")
        assert self.ask(mirror, url(f"{EHR}/Encounter/e2")).reason == "encounter_of_other_patient"

    def test_the_patient_s_own_number_does_not_hide_another_s_url(self, mirror: Mirror) -> None:
        mirror.encounter("e1", "1", "p1")
        mirror.encounter("e2", "2", "p2")
        number = Identifier(system=VISIT, value="1")
        assert self.ask(mirror, number, url(f"{EHR}/Encounter/e2")).reason == "encounter_of_other_patient"
        assert self.ask(mirror, number, url(f"{EHR}/Encounter/e9")).reason == "encounter_unknown"
        assert self.ask(mirror, number, url(f"{EHR}/Encounter/e1")).encounter_id == "e1"
        assert self.ask(mirror, number, url("https://agent.example/Encounter/5")).encounter_id == "e1"
