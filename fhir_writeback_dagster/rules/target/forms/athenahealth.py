"""athenaOne's forms for vital signs and problems (fields: `rules/target/vendors/athenahealth.yaml` names sources).

A form has no field for a status: what it stores is a final reading, or an active and confirmed problem. So nothing else may be
put into one, or a resolved or suspected condition would stand on the problem list.
"""

from __future__ import annotations

import json
import re
from typing import Any

from fhir_writeback_dagster.rules.target.forms import Unwritable
from fhir_writeback_dagster.rules.target.matrix import Vendor

_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)")
_SNOMED, _LOINC = "http://snomed.info/sct", "http://loinc.org"
_CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"
_FINAL = frozenset({"final", "amended", "corrected"})


def fields(vendor: Vendor, payload: dict[str, Any]) -> dict[str, str]:
    """The form of an Observation or a Condition.

    :raises Unwritable: no form says it.
    """
    return _problem(payload) if payload["resourceType"] == "Condition" else _vitals(vendor, payload)


def _problem(condition: dict[str, Any]) -> dict[str, str]:
    code = _code(condition.get("code"), _SNOMED)
    if code is None:
        raise Unwritable("no_snomed_code")
    if _code(condition.get("clinicalStatus"), _CLINICAL) != "active" or any(name.startswith("abatement") for name in condition):
        raise Unwritable("not_an_active_problem")
    verified = {one.get("code") for one in _codings(condition.get("verificationStatus"))}
    if "verificationStatus" in condition and verified != {"confirmed"}:
        raise Unwritable("not_a_confirmed_problem")
    return {"snomedcode": code, "startdate": _date(condition.get("onsetDateTime") or condition.get("recordedDate"))}


def _vitals(vendor: Vendor, observation: dict[str, Any]) -> dict[str, str]:
    """One reading of each element; a blood pressure is two."""
    if observation.get("status") not in _FINAL:
        raise Unwritable("not_a_final_reading")
    taken = _date(observation.get("effectiveDateTime"))
    parts = observation.get("component") or [observation]
    readings = [{**_reading(vendor, part), "readingtaken": taken} for part in parts]
    return {"source": "DEVICEGENERATED", "returnvitalids": "true", "vitals": json.dumps([readings])}


def _reading(vendor: Vendor, part: dict[str, Any]) -> dict[str, str]:
    own = vendor.create.own_codes.get({}).get(_code(part.get("code"), _LOINC) or "")
    quantity = part.get("valueQuantity")
    if own is None or not isinstance(quantity, dict) or "value" not in quantity:
        raise Unwritable("no_vital_of_the_ehr")
    if quantity.get("code") != own.unit or "comparator" in quantity:
        raise Unwritable("unit_not_taken")
    return {"clinicalelementid": own.code, "value": str(quantity["value"])}


def _code(concept: object, system: str) -> str | None:
    return next((str(c["code"]) for c in _codings(concept) if c.get("code") and c.get("system") == system), None)


def _codings(concept: object) -> list[dict[str, Any]]:
    codings = concept.get("coding") if isinstance(concept, dict) else None
    return [one for one in codings if isinstance(one, dict)] if isinstance(codings, list) else []


def _date(value: object) -> str:
    match = _DATE.match(value) if isinstance(value, str) else None
    if match is None:
        raise Unwritable("no_date")
    return f"{match[2]}/{match[3]}/{match[1]}"
