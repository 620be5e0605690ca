"""Helpers for commit's tests: a chart in a real server, and candidates and verdicts as decide writes them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

from fhir_writeback_dagster.commit.mirror import MirrorReport, refresh
from fhir_writeback_dagster.sandbox.sekmet import Sekmet
from fhir_writeback_dagster.store.db import Row
from fhir_writeback_dagster.tenants import Tenant
from fhir_writeback_dagster.workplace import Workplace

MRN = "urn:oid:2.16.840.1.113883.19.5"
VISIT = "urn:oid:2.16.840.1.113883.19.6"

Resource = dict[str, Any]

_numbers = itertools.count(1)


def patient(patient_id: str, *mrns: str, **more: Any) -> Resource:
    return {
        "resourceType": "Patient",
        "id": patient_id,
        "identifier": [{"system": MRN, "value": mrn} for mrn in mrns],
        "name": [{"family": "Test", "given": ["Case"]}],
        **more,
    }


def encounter(encounter_id: str, patient_id: str, status: str = "in-progress", **more: Any) -> Resource:
    return {
        "resourceType": "Encounter",
        "id": encounter_id,
        "identifier": [{"system": VISIT, "value": f"visit-{encounter_id}"}],
        "status": status,
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
        "subject": {"reference": f"Patient/{patient_id}"},
        **more,
    }


def consent(consent_id: str, patient_id: str, provision: str = "permit", **more: Any) -> Resource:
    return {
        "resourceType": "Consent",
        "id": consent_id,
        "status": "active",
        "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": f"Patient/{patient_id}"},
        "dateTime": "2024-01-01",
        "policyRule": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "OPTIN"}]},
        "provision": {"type": provision},
        **more,
    }


class World:
    """One tenant, its EHR, and commit's workplace ``w``."""

    def __init__(self, tenant: Tenant, workplace: Callable[..., Any], ehr: Sekmet) -> None:
        self.tenant, self.ehr, self._workplace = tenant, ehr, workplace
        self._stack = ExitStack()
        self.w: Workplace

    def open(self) -> Self:
        self.w = self._stack.enter_context(self._workplace("commit", self.tenant))
        return self

    def close(self) -> None:
        self._stack.close()

    def load(self, *resources: Resource) -> None:
        self.ehr.load(resources)

    def refresh(self, *, full: bool = False) -> MirrorReport:
        return refresh(self.w, full)

    def rows(self, query: str, *params: Any) -> list[Row]:
        """What commit sees of its tables; `%s` for the tenant is the first parameter."""
        with self.w.store.tenant(self.w.id) as connection:
            return connection.execute(query, (self.w.id, *params)).fetchall()
