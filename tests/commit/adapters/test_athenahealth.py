"""athenaOne: the whole commit path where the write is a form of the vendor's own API and the chart is read over FHIR.

The FHIR side is a real server; the forms are answered on the line as the API's documentation says, because nobody hands out an
athenaOne to test against.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import pytest
from commit.faults import FaultyLine, LoseAnswer, Say
from commit.world import Resource, World, heart_rate, patient

from fhir_writeback_dagster.commit.adapters.registry import adapter_for
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.rules.target.capabilities import Target
from fhir_writeback_dagster.rules.target.matrix import load_vendor

AT = "2024-03-01T10:00:00Z"
CHART = "v1/195900/chart/14914"
SETTINGS = {"practice": "195900", "department": "21"}
PATIENT = "a-195900.E-14914"
MADE = {"success": True, "vitalids": [{"clinicalelementid": "VITALS.HEARTRATE", "vitalid": 46467}]}
PRESSURES = ("VITALS.BLOODPRESSURE.SYSTOLIC", "VITALS.BLOODPRESSURE.DIASTOLIC")


@pytest.fixture
def athena(make_world: Callable[..., World], line: FaultyLine) -> World:
    world = make_world(ehr={"base_url": line.base_url, "vendor": "athenahealth", "vendor_settings": SETTINGS})
    world.load(patient(PATIENT, "14914"))
    return world


def says(status: int, body: object) -> Say:
    return Say(status, (("Content-Type", "application/json"),), json.dumps(body).encode())


def form(line: FaultyLine, path: str) -> dict[str, str]:
    (sent,) = line.sent("POST", f"{CHART}/{path}")
    assert sent.headers["content-type"] == "application/x-www-form-urlencoded"
    return {name: values[0] for name, values in parse_qs(sent.body.decode()).items()}


def blood_pressure() -> Resource:
    def part(code: str, value: int) -> Resource:
        quantity = {"value": value, "unit": "mmHg", "system": "http://unitsofmeasure.org", "code": "mm[Hg]"}
        return {"code": {"coding": [{"system": "http://loinc.org", "code": code}]}, "valueQuantity": quantity}

    panel = heart_rate(PATIENT, AT, 0, component=[part("8480-6", 120), part("8462-4", 80)])
    del panel["valueQuantity"]
    return {**panel, "code": {"coding": [{"system": "http://loinc.org", "code": "85354-9"}]}}


def coded(system: str, code: str) -> Resource:
    return {"coding": [{"system": f"http://terminology.hl7.org/CodeSystem/{system}", "code": code}]}


def problem(**more: Any) -> Resource:
    return {
        "resourceType": "Condition",
        "clinicalStatus": coded("condition-clinical", "active"),
        "verificationStatus": coded("condition-ver-status", "confirmed"),
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": "44054006"}]},
        "subject": {"reference": f"Patient/{PATIENT}"},
        "onsetDateTime": "2024-02-29",
        **more,
    }


def test_a_vital_sign_goes_as_a_form_and_the_answer_names_it(athena: World, line: FaultyLine) -> None:
    line.on("POST", CHART, says(200, MADE))
    athena.approve(heart_rate(PATIENT, AT, 72), mrn="14914")
    athena.commit()
    assert athena.intents() == [("committed", "created", None)]
    sent = form(line, "vitals")
    assert (sent["departmentid"], sent["source"], sent["returnvitalids"]) == ("21", "DEVICEGENERATED", "true")
    assert json.loads(sent["vitals"]) == [
        [{"clinicalelementid": "VITALS.HEARTRATE", "value": "72", "readingtaken": "03/01/2024"}]
    ]
    assert athena.rows("SELECT resource_type, resource_id FROM ledger.link WHERE tenant = %s") == [("Observation", "vital-46467")]


def test_a_blood_pressure_is_two_readings_of_one_vital_sign(athena: World, line: FaultyLine) -> None:
    made = [{"clinicalelementid": name, "vitalid": number} for number, name in enumerate(PRESSURES, 46467)]
    line.on("POST", CHART, says(200, {"success": True, "vitalids": made}))
    athena.approve(blood_pressure(), mrn="14914")
    athena.commit()
    assert athena.intents() == [("committed", "created", None)]
    assert athena.rows("SELECT resource_id FROM ledger.link WHERE tenant = %s") == [("vital-46467-46468",)]
    ((systolic, diastolic),) = json.loads(form(line, "vitals")["vitals"])
    assert systolic["clinicalelementid"] == "VITALS.BLOODPRESSURE.SYSTOLIC"
    assert (systolic["value"], diastolic["value"]) == ("120", "80")


@pytest.mark.parametrize(
    "made",
    [
        MADE["vitalids"],
        [{"clinicalelementid": name, "vitalid": 46467} for name in PRESSURES],
        [{"clinicalelementid": PRESSURES[0], "vitalid": number} for number in (1, 2)],
        [{"clinicalelementid": name, "vitalid": number} for number, name in enumerate((*PRESSURES, "VITALS.HEARTRATE"))],
    ],
    ids=["one id", "the same id twice", "the same reading twice", "three ids"],
)
def test_other_readings_than_were_sent_go_to_a_person(athena: World, line: FaultyLine, made: object) -> None:
    line.on("POST", CHART, says(200, {"success": True, "vitalids": made}))
    athena.approve(blood_pressure(), mrn="14914")
    athena.commit()
    assert athena.intents() == [("in_review", None, "cannot_be_found")]
    assert len(line.sent("POST", CHART)) == 1


def test_a_problem_goes_with_its_snomed_code_and_date(athena: World, line: FaultyLine) -> None:
    line.on("POST", CHART, says(200, {"success": "true", "problemid": "311"}))
    athena.approve(problem(), mrn="14914", kind="condition")
    athena.commit()
    assert athena.intents() == [("committed", "created", None)]
    assert form(line, "problems") == {"departmentid": "21", "snomedcode": "44054006", "startdate": "02/29/2024"}


@pytest.mark.parametrize(
    ("status", "body", "end"),
    [
        (200, {"success": False, "errormessage": "This patient is not in this department."}, ("quarantined", None, "refused")),
        (200, {"errormessage": "x"}, ("quarantined", None, "refused")),
        (400, {"error": "Additional fields are required."}, ("quarantined", None, "malformed")),
        (404, {"error": "The patient does not exist."}, ("quarantined", None, "target_gone")),
        (403, {"error": "Forbidden"}, ("quarantined", None, "forbidden")),
    ],
)
def test_errors_that_are_no_operation_outcomes_are_understood(
    athena: World, line: FaultyLine, status: int, body: object, end: tuple[Any, ...]
) -> None:
    line.on("POST", CHART, says(status, body))
    athena.approve(heart_rate(PATIENT, AT, 72), mrn="14914")
    athena.commit()
    assert athena.intents() == [end]


@pytest.mark.parametrize("fault", [LoseAnswer(), says(200, {}), says(200, [])])
def test_what_nobody_can_prove_goes_to_a_person_and_is_not_sent_again(athena: World, line: FaultyLine, fault: Any) -> None:
    line.always("POST", CHART, fault)
    athena.approve(heart_rate(PATIENT, AT, 72), mrn="14914")
    athena.commit()
    assert athena.intents() == [("in_review", None, "cannot_be_found")]
    assert len(line.sent("POST", CHART)) == 1


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (problem(code={"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "E11.9"}]}), "no_snomed_code"),
        (problem(onsetDateTime="2024-02"), "no_date"),
        *(
            (problem(clinicalStatus=coded("condition-clinical", code)), "not_an_active_problem")
            for code in ("resolved", "inactive", "remission", "recurrence", "relapse")
        ),
        (problem(clinicalStatus=None), "not_an_active_problem"),
        *((problem(**{name: "2024-03-01"}), "not_an_active_problem") for name in ("abatementDateTime", "abatementString")),
        *(
            (problem(verificationStatus=coded("condition-ver-status", code)), "not_a_confirmed_problem")
            for code in ("unconfirmed", "provisional", "differential", "refuted")
        ),
        (heart_rate(PATIENT, AT, 72, status="preliminary"), "not_a_final_reading"),
        (heart_rate(PATIENT, AT, 72, code={"coding": [{"system": "http://loinc.org", "code": "2708-6"}]}), "no_vital_of_the_ehr"),
        (heart_rate(PATIENT, AT, 72, valueQuantity={"value": 72, "code": "Hz"}), "unit_not_taken"),
    ],
)
def test_what_its_forms_have_no_place_for_is_never_sent(athena: World, line: FaultyLine, payload: Resource, reason: str) -> None:
    said = {name: value for name, value in payload.items() if value is not None}
    athena.approve(said, mrn="14914", kind="vital_sign")
    athena.commit()
    assert athena.intents() == [("quarantined", None, reason)]
    assert line.sent("POST", CHART) == []


def test_a_problem_whose_verification_is_not_stated_is_taken_as_confirmed(athena: World, line: FaultyLine) -> None:
    line.on("POST", CHART, says(200, {"success": "true", "problemid": "311"}))
    stated = problem()
    del stated["verificationStatus"]
    athena.approve(stated, mrn="14914", kind="condition")
    athena.commit()
    assert athena.intents() == [("committed", "created", None)]


def test_a_tenant_without_practice_or_department_is_told_so(make_tenant: Callable[..., Any]) -> None:
    tenant = make_tenant(ehr={"vendor": "athenahealth", "vendor_settings": {"practice": "195900"}})
    with pytest.raises(ConfigError, match=r"needs a number for department.*vendor_settings: \{practice"):
        adapter_for(Target(load_vendor("athenahealth")), tenant)
