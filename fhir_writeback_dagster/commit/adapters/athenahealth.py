"""athenaOne: vital signs and problems go over its own API, form-encoded; the rest is FHIR as everywhere.

Its FHIR API only creates QuestionnaireResponses. ``POST /v1/{practice}/chart/{patient}/vitals`` and ``…/problems`` take forms
and answer ``{"success": true, "vitalids": […]}``, or ``success: false`` with an ``errormessage`` under a status of 200. Nothing
guards them, their ids are none of FHIR, and whether FHIR shows what they stored is the practice's choice: a write without an
answer can be proved neither done nor undone, so it goes to a person. What the forms can say: `rules/forms`.
"""

from __future__ import annotations

import json
import re
from urllib.parse import urlencode

from fhir_writeback_dagster.commit.adapters.base import Halt, Locators, WirePlan
from fhir_writeback_dagster.commit.adapters.generic import Generic
from fhir_writeback_dagster.commit.protocol.answer import Answer, dicts
from fhir_writeback_dagster.commit.protocol.changes import Refuse
from fhir_writeback_dagster.commit.protocol.error_classes import ErrorClass, Recovery
from fhir_writeback_dagster.commit.protocol.model import Intent, Standing
from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.rules.target.capabilities import Target
from fhir_writeback_dagster.rules.target.forms import Unwritable, fields

FORM = "application/x-www-form-urlencoded"
SETTINGS = ("practice", "department")
_PATIENT = re.compile(r"(?:a-[0-9]+\.E-)?([0-9]+)")
_NUMBER = re.compile(r"[0-9]{1,18}")
_REFUSED = ErrorClass("refused", Recovery.QUARANTINE)


def make(target: Target, tenant: Tenant) -> Athena:
    """:raises ConfigError: the tenant does not name its practice and department."""
    settings = tenant.ehr.vendor_settings
    if lacking := [name for name in SETTINGS if not settings.get(name, "").isdigit()]:
        raise ConfigError(
            "vendor_settings",
            f"athenaOne needs a number for {', '.join(lacking)}",
            where=f"tenants/{tenant.tenant}.yaml ehr.vendor_settings",
            fix="vendor_settings: {practice: '195900', department: '1'}",
        )
    return Athena(target, tenant.identifier_system, practice=settings["practice"], department=settings["department"])


class Athena(Generic):
    def __init__(self, target: Target, system: str, *, practice: str, department: str) -> None:
        super().__init__(target, system)
        self._chart, self._department = f"/v1/{practice}/chart", department

    def create_request(self, item: Intent) -> WirePlan | Halt:
        if not self.capabilities.own_api(item.resource_type):
            return super().create_request(item)
        try:
            patient = _number_of(item.patient_id)
            form = fields(self.capabilities.vendor, item.payload)
        except Unwritable as reason:
            return Refuse(reason.code)
        kind = "problems" if item.resource_type == "Condition" else "vitals"
        return WirePlan(
            request="create",
            verb="create",
            precondition="none",
            method="POST",
            path=f"{self._chart}/{patient}/{kind}",
            headers={"Content-Type": FORM, "Accept": "application/json"},
            body=urlencode({"departmentid": self._department, **form}).encode(),
            expected=item.payload,
            identity=self.identity(item),
        )

    def reconcile(self, item: Intent) -> Locators:
        if self.capabilities.own_api(item.resource_type):
            return Locators(identifier=False, natural_key=False)
        return super().reconcile(item)

    def interpret(self, plan: WirePlan, answer: Answer) -> ErrorClass:
        if not plan.path.startswith("/") or answer.status >= 300 or self._ids(plan, answer):
            return super().interpret(plan, answer)
        body = answer.json()
        said_no = isinstance(body, dict) and (body.get("errormessage") or body.get("success") in (False, "false"))
        return _REFUSED if said_no else ErrorClass("odd_answer", Recovery.RECONCILE)

    def recognise(self, plan: WirePlan, answer: Answer) -> Standing | None:
        if not plan.path.startswith("/"):
            return super().recognise(plan, answer)
        made = self._ids(plan, answer)
        return Standing({**plan.expected, "id": made}, None) if made else None

    def _ids(self, plan: WirePlan, answer: Answer) -> str | None:
        """What was made, by the ids of its own API: ``vital-46467``, ``problem-311``; None where that is not what was sent,
        each reading once.
        """
        body = answer.json()
        if not isinstance(body, dict) or body.get("success") not in (True, "true"):
            return None
        if plan.path.endswith("/problems"):
            return f"problem-{body['problemid']}" if _is_number(body.get("problemid")) else None
        made = dicts(body.get("vitalids"))
        numbers = [str(one.get("vitalid")) for one in made]
        (sent,) = json.loads(fields(self.capabilities.vendor, plan.expected)["vitals"])
        if len(set(numbers)) != len(sent) or len(made) != len(sent) or not all(map(_is_number, numbers)):
            return None
        named = sorted(str(one["clinicalelementid"]) for one in made if "clinicalelementid" in one)
        return "-".join(["vital", *numbers]) if named in ([], sorted(one["clinicalelementid"] for one in sent)) else None


def _is_number(value: object) -> bool:
    return _NUMBER.fullmatch(str(value)) is not None


def _number_of(patient_id: str) -> str:
    """The patient's number in its own API."""
    match = _PATIENT.fullmatch(patient_id)
    if match is None:
        raise Unwritable("patient_id_unknown")
    return match[1]
