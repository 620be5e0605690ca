"""Every invariant of the written types: one fragment that keeps it, one that breaks it, and fhirpathpy as the oracle.

The oracle runs the FHIRPath that the StructureDefinition states. What it cannot evaluate stands in ``NO_ORACLE`` with why.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from decide.mutants import Resource, golden_payloads, official_examples, places
from fhirpathpy import compile as compile_fhirpath
from fhirpathpy.models import models

from fhir_writeback_dagster.decide.validation.invariants import ELSEWHERE, RULES
from fhir_writeback_dagster.rules.fhir.r4 import UCUM, definitions

ALLERGY = "http://terminology.hl7.org/CodeSystem/allergyintolerance-"
CONDITION = "http://terminology.hl7.org/CodeSystem/condition-"
NO_ORACLE = {
    "con-3": "the published expression compares a CodeableConcept with a string and never fails",
    "dom-3": "fhirpathpy: 'as' wants a singleton",
    "ext-1": "stands on every extension, not on the type",
    "per-1": "fhirpathpy has no hasValue()",
    "age-1": "fhirpathpy has no hasValue()",
    "cnt-3": "fhirpathpy has no hasValue()",
    "rng-2": "fhirpathpy compares no quantities",
    "txt-1": "htmlChecks() is the implementer's",
    "txt-2": "htmlChecks() is the implementer's",
}


def concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


SAME_CODE = concept("http://loinc.org", "1")
IN_ERROR = concept(ALLERGY + "verification", "entered-in-error")
WRONG_CONDITION = concept(CONDITION + "ver-status", "entered-in-error")
ACTIVE = concept(CONDITION + "clinical", "active")
DURATION = {"value": 1, "system": UCUM, "code": "s"}
PART = {"resourceType": "Medication", "id": "m"}


def resource(kind: str, **more: Any) -> Resource:
    return {"resourceType": kind, **more}


#: key → (type, fragment that keeps the rule, fragment that breaks it)
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "age-1": ("Age", {"value": 1, "system": UCUM, "code": "a"}, {"value": -1, "system": UCUM, "code": "a"}),
    "ait-1": ("AllergyIntolerance", resource("AllergyIntolerance", verificationStatus=IN_ERROR), resource("AllergyIntolerance")),
    "ait-2": (
        "AllergyIntolerance",
        resource("AllergyIntolerance", clinicalStatus={"text": "x"}),
        resource("AllergyIntolerance", clinicalStatus={"text": "x"}, verificationStatus=IN_ERROR),
    ),
    "att-1": ("Attachment", {"data": "YQ==", "contentType": "text/plain"}, {"data": "YQ=="}),
    "cnt-3": ("Count", {"value": 2, "system": UCUM, "code": "1"}, {"value": 2, "system": UCUM, "code": "m"}),
    "con-1": ("Condition.stage", {"summary": {"text": "x"}}, {"type": {"text": "x"}}),
    "con-2": ("Condition.evidence", {"code": [{"text": "x"}]}, {"id": "x"}),
    "con-3": (
        "Condition",
        resource("Condition", category=[concept("x", "encounter-diagnosis")]),
        resource("Condition", category=[concept("x", "problem-list-item")]),
    ),
    "con-4": (
        "Condition",
        resource("Condition", abatementDateTime="2014", clinicalStatus=concept(CONDITION + "clinical", "resolved")),
        resource("Condition", abatementDateTime="2014", clinicalStatus=ACTIVE),
    ),
    "con-5": (
        "Condition",
        resource("Condition", verificationStatus=WRONG_CONDITION),
        resource("Condition", verificationStatus=WRONG_CONDITION, clinicalStatus=ACTIVE),
    ),
    "cpt-2": ("ContactPoint", {"value": "x", "system": "phone"}, {"value": "x"}),
    "dis-1": ("Distance", {"value": 1, "system": UCUM, "code": "m"}, {"value": 1, "system": "urn:x", "code": "m"}),
    "dom-2": (
        "Observation",
        resource("Observation", contained=[PART]),
        resource("Observation", contained=[{**PART, "contained": [PART]}]),
    ),
    "dom-3": (
        "Observation",
        resource("Observation", contained=[PART], focus=[{"reference": "#m"}]),
        resource("Observation", contained=[PART]),
    ),
    "dom-4": (
        "Observation",
        resource("Observation", contained=[{**PART, "meta": {"profile": ["urn:x"]}}]),
        resource("Observation", contained=[{**PART, "meta": {"versionId": "1"}}]),
    ),
    "dom-5": (
        "Observation",
        resource("Observation", contained=[{**PART, "meta": {"tag": [{"code": "x"}]}}]),
        resource("Observation", contained=[{**PART, "meta": {"security": [{"code": "x"}]}}]),
    ),
    "drq-1": ("DataRequirement.codeFilter", {"path": "x"}, {"path": "x", "searchParam": "y"}),
    "drq-2": ("DataRequirement.dateFilter", {"path": "x"}, {"valueDateTime": "2014"}),
    "drt-1": ("Duration", DURATION, {**DURATION, "system": "urn:x"}),
    "exp-1": ("Expression", {"expression": "x"}, {"language": "text/cql"}),
    "ext-1": (
        "Extension",
        {"url": "urn:x", "valueString": "x"},
        {"url": "urn:x", "valueString": "x", "extension": [{"url": "urn:y", "valueString": "y"}]},
    ),
    "imm-1": ("Immunization.education", {"documentType": "x"}, {"publicationDate": "2014"}),
    "obs-3": ("Observation.referenceRange", {"text": "x"}, {"age": {"low": {"value": 1}}}),
    "obs-6": (
        "Observation",
        resource("Observation", dataAbsentReason={"text": "x"}),
        resource("Observation", dataAbsentReason={"text": "x"}, valueString="x"),
    ),
    "obs-7": (
        "Observation",
        resource("Observation", code=SAME_CODE, component=[{"code": SAME_CODE}]),
        resource("Observation", code=SAME_CODE, valueString="x", component=[{"code": SAME_CODE}]),
    ),
    "org-1": ("Organization", resource("Organization", name="x"), resource("Organization", active=True)),
    "org-2": (
        "Organization",
        resource("Organization", address=[{"use": "work"}]),
        resource("Organization", address=[{"use": "home"}]),
    ),
    "org-3": (
        "Organization",
        resource("Organization", telecom=[{"use": "work"}]),
        resource("Organization", telecom=[{"use": "home"}]),
    ),
    "pat-1": ("Patient.contact", {"name": {"text": "x"}}, {"gender": "male"}),
    "per-1": ("Period", {"start": "2014-08", "end": "2014-08-22"}, {"start": "2014-08-22", "end": "2014-07"}),
    "qty-3": ("Quantity", {"value": 1, "code": "m", "system": UCUM}, {"value": 1, "code": "m"}),
    "rat-1": ("Ratio", {"numerator": {"value": 1}, "denominator": {"value": 2}}, {"numerator": {"value": 1}}),
    "rng-2": ("Range", {"low": {"value": 1}, "high": {"value": 1}}, {"low": {"value": 2}, "high": {"value": 1}}),
    "sqty-1": ("SimpleQuantity", {"value": 1}, {"value": 1, "comparator": "<"}),
    "tim-1": ("Timing.repeat", {"duration": 1, "durationUnit": "h"}, {"duration": 1}),
    "tim-2": ("Timing.repeat", {"period": 1, "periodUnit": "d"}, {"period": 1}),
    "tim-4": ("Timing.repeat", {"duration": 0}, {"duration": -1}),
    "tim-5": ("Timing.repeat", {"period": 0}, {"period": -1}),
    "tim-6": ("Timing.repeat", {"periodMax": 2, "period": 1}, {"periodMax": 2}),
    "tim-7": ("Timing.repeat", {"durationMax": 2, "duration": 1}, {"durationMax": 2}),
    "tim-8": ("Timing.repeat", {"countMax": 2, "count": 1}, {"countMax": 2}),
    "tim-9": ("Timing.repeat", {"offset": 10, "when": ["HS"]}, {"offset": 10, "when": ["C"]}),
    "tim-10": ("Timing.repeat", {"when": ["HS"]}, {"when": ["HS"], "timeOfDay": ["10:00:00"]}),
    "trd-1": ("TriggerDefinition", {"data": [{"type": "Patient"}]}, {"data": [{"type": "Patient"}], "timingDate": "2014-01-01"}),
    "trd-2": ("TriggerDefinition", {"condition": {}, "data": [{}]}, {"condition": {"language": "text/cql"}}),
    "txt-1": ("Narrative", {"div": "<div><b>x</b></div>"}, {"div": "<div><script>x</script></div>"}),
    "txt-2": ("Narrative", {"div": "<div><img src='#x'/></div>"}, {"div": "<div> <p> </p></div>"}),
    "trd-3": ("TriggerDefinition", {"type": "named-event", "name": "x"}, {"type": "data-added"}),
}


def stated() -> dict[str, str]:
    return {c.key: c.expression for structure in definitions().structures.values() for c in structure.constraints}


def test_no_invariant_of_the_definitions_is_left_out() -> None:
    assert stated().keys() | {"ext-1"} == RULES.keys() | ELSEWHERE
    assert CASES.keys() == RULES.keys()


@pytest.mark.parametrize("key", sorted(CASES))
def test_an_invariant_holds_where_it_should_and_breaks_where_it_should(key: str) -> None:
    _, kept, broken = CASES[key]
    assert RULES[key](kept)
    assert not RULES[key](broken)


@pytest.mark.parametrize("attribute", ["onclick='x'", 'OnLoad = "x"', "href='javascript:x'"])
def test_a_narrative_that_a_browser_would_run_is_refused(attribute: str) -> None:
    assert not RULES["txt-1"]({"div": f"<div><a {attribute}>x</a></div>"})


@cache
def _compiled(expression: str) -> Any:
    return compile_fhirpath(expression, models["r4"])


def oracle(key: str, node: dict[str, Any], root: dict[str, Any]) -> bool:
    answer: list[Any] = _compiled(stated()[key])(node, {"resource": root, "rootResource": root, "ucum": UCUM})
    return answer in ([True], [])


@pytest.mark.parametrize("key", sorted(CASES.keys() - NO_ORACLE.keys() - {"org-2", "org-3", "trd-1"}))
def test_the_oracle_agrees_on_the_cases(key: str) -> None:
    _, kept, broken = CASES[key]
    assert oracle(key, kept, kept)
    assert not oracle(key, broken, broken)


def _fragments(root: Resource) -> Iterator[tuple[str, dict[str, Any]]]:
    yield root["resourceType"], root
    for _, kind, value in places(root, root["resourceType"]):
        if isinstance(value, dict) and kind in definitions().structures:
            yield kind, value


def test_the_oracle_agrees_on_official_examples_and_golden_payloads() -> None:
    disagreed, asked = set(), 0
    for root in golden_payloads() + official_examples()[::8]:
        for kind, node in _fragments(root):
            for constraint in definitions().structures[kind].constraints:
                if constraint.key in NO_ORACLE or constraint.key in ELSEWHERE:
                    continue
                asked += 1
                if oracle(constraint.key, node, root) != RULES[constraint.key](node):
                    disagreed.add((constraint.key, root.get("id")))
    assert asked > 400
    assert disagreed == set()
