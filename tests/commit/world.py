"""Helpers for commit's tests: a chart in a real server, and candidates and verdicts as decide writes them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self
from uuid import UUID

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.commit.mirror.model import MirrorReport
from fhir_writeback_dagster.commit.mirror.refresh import refresh
from fhir_writeback_dagster.commit.pipeline import CommitReport, commit
from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.orchestration.run_context import RunContext, utc_now
from fhir_writeback_dagster.rules.consent.model import ConsentRequest
from fhir_writeback_dagster.rules.policy.cedar import PolicyRequest
from fhir_writeback_dagster.sandbox.servers.sekmet import Sekmet
from fhir_writeback_dagster.store.db import Row, connect, copy_rows

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


def consent(consent_id: str, patient_id: str, provision: str | Resource = "permit", **more: Any) -> Resource:
    return {
        "resourceType": "Consent",
        "id": consent_id,
        "status": "active",
        "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": f"Patient/{patient_id}"},
        "dateTime": "2024-01-01",
        "policyRule": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "OPTIN"}]},
        "provision": {"type": provision} if isinstance(provision, str) else provision,
        **more,
    }


def heart_rate(patient_id: str, at: str, value: float, **more: Any) -> Resource:
    """A vital sign as the mapping renders it, without its identifier."""
    return {
        "resourceType": "Observation",
        "status": "final",
        "category": [
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "vital-signs"}]}
        ],
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": f"Patient/{patient_id}"},
        "effectiveDateTime": at,
        "valueQuantity": {"value": value, "unit": "/min", "system": "http://unitsofmeasure.org", "code": "/min"},
        **more,
    }


@dataclass(frozen=True)
class Candidate:
    """What decide approved."""

    candidate_id: UUID
    record_id: UUID
    business_key: str
    payload: Resource


class World:
    """One tenant, its EHR, and commit's workplace ``run``."""

    def __init__(
        self,
        tenant: Tenant,
        open_run: Callable[..., Any],
        ehr: Sekmet,
        superuser: str,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._clock = clock
        self.tenant, self.ehr, self._workplace, self._superuser = tenant, ehr, open_run, superuser
        self._stack = ExitStack()
        self.run: RunContext
        self.decide: RunContext

    def open(self) -> Self:
        self.run = self._stack.enter_context(self._workplace("commit", self.tenant, self._clock))
        self.decide = self._stack.enter_context(self._workplace("decide", self.tenant))
        return self

    def another(self) -> AbstractContextManager[RunContext]:
        """commit's workplace once more, with a connection of its own."""
        opened: AbstractContextManager[RunContext] = self._workplace("commit", self.tenant)
        return opened

    def close(self) -> None:
        self._stack.close()

    def load(self, *resources: Resource) -> None:
        self.ehr.load(resources)

    def refresh(self, *, full: bool = False) -> MirrorReport:
        return refresh(self.run, full)

    def commit(self, deadline_s: float = 60) -> CommitReport:
        report = commit(self.run, deadline_s)
        assert {type(name) for name in report.metadata()} == {str}, "Dagster stores plain strings only: no StrEnum"
        return report

    def rows(self, query: str, *params: Any) -> list[Row]:
        """What commit sees of its tables; `%s` for the tenant is the first parameter."""
        with self.run.store.tenant(self.run.id) as connection:
            return connection.execute(query, (self.run.id, *params)).fetchall()

    def owner_rows(self, query: str, *params: Any) -> list[Row]:
        """The same as the database's owner sees it, tables included that commit may only write."""
        with connect(self._superuser) as connection:
            return connection.execute(query, (self.run.id, *params)).fetchall()

    def events(self, subject: object) -> list[str]:
        """The types of the audit events about ``subject``, in order."""
        query = "SELECT type FROM audit.event WHERE tenant = %s AND subject = %s ORDER BY id"
        return [row[0] for row in self.owner_rows(query, str(subject))]

    def change(self, query: str, *params: Any) -> None:
        """Change a table as the test wants it, on a connection of its own; `%s` for the tenant is the first parameter."""
        with connect(self._superuser) as connection:
            connection.execute(query, (self.run.id, *params))

    def intents(self) -> list[Row]:
        """(state, outcome, reason) of every intent, in the order that they were made."""
        return self.rows("SELECT state, outcome, reason FROM ledger.intent WHERE tenant = %s ORDER BY created_at, intent_id")

    def in_ehr(self, key: str, resource_type: str = "Observation") -> list[Resource]:
        """What bears the business key in the EHR, by search."""
        return self.ehr.search(resource_type, identifier=f"{self.tenant.identifier_system}|{key}")

    def approve(
        self,
        payload: Resource,
        *,
        key: str | None = None,
        revision: int = 1,
        mrn: str | None = None,
        source: str = "synthea_csv",
        kind: str = "vital_sign",
        encounter_id: str | None = None,
        actor: str = "source",
        expires: timedelta = timedelta(hours=1),
    ) -> Candidate:
        return self.approve_all(
            [payload],
            key=key,
            revision=revision,
            mrn=mrn,
            source=source,
            kind=kind,
            encounter_id=encounter_id,
            actor=actor,
            expires=expires,
        )[0]

    def approve_all(
        self,
        payloads: Sequence[Resource],
        *,
        key: str | None = None,
        revision: int = 1,
        mrn: str | None = None,
        source: str = "synthea_csv",
        kind: str = "vital_sign",
        encounter_id: str | None = None,
        actor: str = "source",
        expires: timedelta = timedelta(hours=1),
    ) -> list[Candidate]:
        """Candidates with automatic verdicts in decide's queue, written under decide's role as decide writes them.

        ``mrn`` is the identifier that matched; the patient's id where none is given.
        """
        run, target = self.decide, self.tenant.ehr.target
        made, candidates, verdicts = [], [], []
        for bare in payloads:
            business_key = key or f"key-{next(_numbers)}"
            identifier = [{"system": self.tenant.identifier_system, "value": business_key}]
            payload = {**bare, "identifier": identifier}
            patient_id = (payload.get("subject") or payload["patient"])["reference"].removeprefix("Patient/")
            one = Candidate(new_id(), new_id(), business_key, payload)
            verdict = new_id()
            coding = tuple((c["system"], c["code"]) for c in payload.get("code", {}).get("coding", ()))
            context = {
                "policy": PolicyRequest(
                    tenant=run.id,
                    source=source,
                    actor_type=actor,
                    actor_id=source,
                    kind=kind,
                    resource_type=payload["resourceType"],
                    interaction="create",
                    confidence=None,
                    basis="observed",
                    codes=tuple(f"{system}|{code}" for system, code in coding),
                    encounter_status=None,
                    now=run.now(),
                ).to_json(),
                "consent": ConsentRequest(
                    purpose=self.tenant.consent.purpose,
                    actor=self.tenant.consent.actor,
                    resource_type=payload["resourceType"],
                    codings=coding,
                    labels=(),
                    at=run.now(),
                ).to_json(),
            }
            candidates.append(
                (
                    run.id,
                    one.candidate_id,
                    one.record_id,
                    target,
                    source,
                    kind,
                    payload["resourceType"],
                    1,
                    run.identity.digest("input", str(one.candidate_id)),
                    patient_id,
                    run.identity.digest("identifier", MRN, mrn or patient_id),
                    encounter_id,
                    "person",
                    business_key,
                    revision,
                    canonicaljson.sha256(payload),
                    run.sealer.seal_json("decision.candidate.payload", one.candidate_id, payload),
                    run.sealer.seal_json("decision.candidate.context", one.candidate_id, context),
                    "approved",
                    verdict,
                )
            )
            verdicts.append((run.id, verdict, one.candidate_id, "automatic", "[]", "{}", run.now(), run.now() + expires))
            made.append(one)
        with run.store.tenant(run.id) as connection:
            copy_rows(connection, "decision.candidate", _CANDIDATE, candidates)
            copy_rows(connection, "decision.verdict", _VERDICT, verdicts)
            copy_rows(connection, "decision.outbox", ["tenant", "candidate_id"], [(run.id, c.candidate_id) for c in made])
        return made


_CANDIDATE = (
    "tenant candidate_id record_id target source kind resource_type mapping_version input_hash patient_id matched_by "
    "encounter_id person_id business_key revision content_hash payload context state verdict_id"
).split()
_VERDICT = "tenant verdict_id candidate_id outcome reasons versions made_at expires_at".split()
