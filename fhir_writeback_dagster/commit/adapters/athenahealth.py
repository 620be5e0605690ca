"""athenaOne: vital signs and problems go over its own API, form-encoded; the rest is FHIR as everywhere.

Its FHIR API only creates QuestionnaireResponses. ``POST /v1/{practice}/chart/{patient}/vitals`` and ``…/problems`` take forms
and answer ``{"success": true, "vitalids": […]}``, or ``success: false`` with an ``errormessage`` under a status of 200. Nothing
guards them, their ids are none of FHIR, and whether FHIR shows what they stored is the practice's choice: a write without an
answer can be proved neither done nor undone, so it goes to a person. Fields: `rules/vendors/athenahealth.yaml` names sources.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlencode

from fhir_writeback_dagster.commit.adapters.generic import Generic
from fhir_writeback_dagster.commit.answer import Answer, dicts
from fhir_writeback_dagster.commit.model import Item, Resource, Standing
from fhir_writeback_dagster.commit.plan import Halt, Locators, WirePlan
from fhir_writeback_dagster.commit.protocol import Event
from fhir_writeback_dagster.commit.taxonomy import Outcome, Recovery
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.rules.target import Target
from fhir_writeback_dagster.tenants import Tenant

FORM = "application/x-www-form-urlencoded"
SETTINGS = ("practice", "department")
_PATIENT = re.compile(r"(?:a-\d+\.E-)?(\d+)")
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)")
_SNOMED, _LOINC = "http://snomed.info/sct", "http://loinc.org"
_REFUSED = Outcome("refused", Recovery.QUARANTINE)


class _Unwritable(Exception):
    """The forms have no place for what the payload says; ``args[0]`` is the reason code."""


def make(target: Target, tenant: Tenant) -> Athena:
    """:raises ConfigError: the tenant does not name its practice and department."""
    settings = tenant.ehr.vendor_settings
    if lacking := [name for name in SETTINGS if not settings.get(name, "").isdigit()]:
        raise ConfigError(
            "vendor_settings",
            f"athenaOne needs a number for {', '.join(lacking)}",
            where=f"tenants/{tenant.tenant}.yaml ehr.vendor_settings",
            mend="vendor_settings: {practice: '195900', department: '1'}",
        )
    return Athena(target, tenant.identifier_system, practice=settings["practice"], department=settings["department"])


class Athena(Generic):
    def __init__(self, target: Target, system: str, *, practice: str, department: str) -> None:
        super().__init__(target, system)
        self._chart, self._department = f"/v1/{practice}/chart", department

    def create_request(self, item: Item) -> WirePlan | Halt:
        if not self.capabilities.own_api(item.resource_type):
            return super().create_request(item)
        try:
            patient = _first(_PATIENT, item.patient_id, "patient_id_unknown")
            problem = item.resource_type == "Condition"
            form = _problem(item.payload) if problem else self._vitals(item.payload)
        except _Unwritable as reason:
            return Halt(Event.REFUSE, str(reason.args[0]))
        return WirePlan(
            request="create",
            verb="create",
            precondition="none",
            method="POST",
            path=f"{self._chart}/{patient}/{'problems' if problem else 'vitals'}",
            headers={"Content-Type": FORM, "Accept": "application/json"},
            body=urlencode({"departmentid": self._department, **form}).encode(),
            expected=item.payload,
        )

    def reconcile(self, item: Item) -> Locators:
        if self.capabilities.own_api(item.resource_type):
            return Locators(identifier=False, natural_key=False)
        return super().reconcile(item)

    def interpret(self, plan: WirePlan, answer: Answer) -> Outcome:
        if not plan.path.startswith("/") or answer.status >= 300 or self._ids(answer):
            return super().interpret(plan, answer)
        body = answer.json()
        said_no = isinstance(body, dict) and (body.get("errormessage") or body.get("success") in (False, "false"))
        return _REFUSED if said_no else Outcome("odd_answer", Recovery.RECONCILE)

    def recognise(self, plan: WirePlan, answer: Answer) -> Standing | None:
        if not plan.path.startswith("/"):
            return super().recognise(plan, answer)
        ids = self._ids(answer)
        return Standing({**plan.expected, "id": ids[0]}, None) if ids else None

    @staticmethod
    def _ids(answer: Answer) -> list[str]:
        """What was made, by the ids of its own API: ``vital-46467``, ``problem-311``."""
        body = answer.json()
        if not isinstance(body, dict) or body.get("success") not in (True, "true"):
            return []
        found = [("vital", one.get("vitalid")) for one in dicts(body.get("vitalids"))] + [("problem", body.get("problemid"))]
        return [f"{kind}-{number}" for kind, number in found if str(number).isdigit()]

    def _vitals(self, observation: Resource) -> dict[str, str]:
        """One reading of each element; a blood pressure is two."""
        taken = _date(observation.get("effectiveDateTime"), "no_date")
        parts = dicts(observation.get("component")) or [observation]
        readings = [{**self._reading(part), "readingtaken": taken} for part in parts]
        return {"source": "DEVICEGENERATED", "returnvitalids": "true", "vitals": json.dumps([readings])}

    def _reading(self, part: dict[str, Any]) -> dict[str, str]:
        codes = self.capabilities.vendor.create.own_codes.get({})
        own = codes.get(_code(part.get("code"), _LOINC) or "")
        quantity = part.get("valueQuantity")
        if own is None or not isinstance(quantity, dict):
            raise _Unwritable("no_vital_of_the_ehr")
        if quantity.get("code") != own.unit or "comparator" in quantity:
            raise _Unwritable("unit_not_taken")
        return {"clinicalelementid": own.code, "value": str(quantity["value"])}


def _problem(condition: Resource) -> dict[str, str]:
    code = _code(condition.get("code"), _SNOMED)
    if code is None:
        raise _Unwritable("no_snomed_code")
    if any(_code(condition.get("verificationStatus"), None) == status for status in ("refuted", "entered-in-error")):
        raise _Unwritable("not_a_problem")
    return {"snomedcode": code, "startdate": _date(condition.get("onsetDateTime") or condition.get("recordedDate"), "no_date")}


def _code(concept: object, system: str | None) -> str | None:
    codings = dicts(concept.get("coding")) if isinstance(concept, dict) else []
    return next((str(c["code"]) for c in codings if c.get("code") and system in (None, c.get("system"))), None)


def _date(value: object, reason: str) -> str:
    match = _DATE.match(value) if isinstance(value, str) else None
    if match is None:
        raise _Unwritable(reason)
    return f"{match[2]}/{match[3]}/{match[1]}"


def _first(pattern: re.Pattern[str], text: str, reason: str) -> str:
    match = pattern.fullmatch(text)
    if match is None:
        raise _Unwritable(reason)
    return match[1]
