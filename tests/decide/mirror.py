"""Puts patients and encounters into a real mirror, as commit would, and asks decide's matching about them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from conftest import OpenLayer
from psycopg import Connection, sql

from fhir_writeback_dagster.canonical import Identifier, PatientRef
from fhir_writeback_dagster.commit.mirror.rows import identifiers
from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.decide.matching.encounters import EncounterRequest, match_encounters
from fhir_writeback_dagster.decide.matching.patients import EncounterMatch, Match, match_patients
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.people.demographics import mirror_keys

MRN, SSN, VISIT = "urn:example:mrn", "http://hl7.org/fhir/sid/us-ssn", "urn:example:visit"
NOW = datetime(2026, 6, 15, tzinfo=UTC)


def mrn(value: str) -> Identifier:
    return Identifier(system=MRN, value=value)


def ssn(value: str) -> Identifier:
    return Identifier(system=SSN, value=value)


def ref(*identifiers: Identifier, **demographics: Any) -> PatientRef:
    return PatientRef(identifiers=identifiers, **demographics)


class Mirror:
    """Puts patients and encounters into a tenant's mirror as commit's role does."""

    def __init__(self, open_layer: OpenLayer, tenant: Tenant) -> None:
        self._open, self.tenant = open_layer, tenant

    def patient(
        self,
        patient_id: str,
        *numbers: Identifier,
        family: str = "Smith",
        given: str = "Ann",
        birth_date: str = "1980-02-01",
        gender: str = "female",
        active: bool = True,
        deceased: bool = False,
        replaced_by: str | None = None,
        **more: Any,
    ) -> None:
        body = {
            "resourceType": "Patient",
            "id": patient_id,
            "name": [{"family": family, "given": [given]}],
            "birthDate": birth_date,
            "gender": gender,
            "identifier": [i.model_dump() for i in numbers],
        } | more
        target = self.tenant.ehr.target
        with self._open("commit", self.tenant) as run, run.store.tenant(run.id) as connection:
            connection.execute(
                "INSERT INTO mirror.patient (tenant, target, patient_id, active, deceased, replaced_by, body, fetched_at) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                (
                    run.id,
                    target,
                    patient_id,
                    active,
                    deceased,
                    replaced_by,
                    run.sealer.seal_json("mirror.patient", f"{target}|{patient_id}", body),
                    NOW,
                ),
            )
            self._identify(run, connection, "patient", body)

    def encounter(
        self,
        encounter_id: str,
        number: str,
        patient_id: str | None,
        status: str = "in-progress",
        period: tuple[datetime, datetime | None] = (NOW, None),
    ) -> None:
        target = self.tenant.ehr.target
        with self._open("commit", self.tenant) as run, run.store.tenant(run.id) as connection:
            connection.execute(
                "INSERT INTO mirror.encounter (tenant, target, encounter_id, patient_id, status, starts_at, ends_at, "
                "fetched_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                (run.id, target, encounter_id, patient_id, status, *period, NOW),
            )
            body = {"resourceType": "Encounter", "id": encounter_id, "identifier": [{"system": VISIT, "value": number}]}
            self._identify(run, connection, "encounter", body)

    def _identify(self, run: RunContext, connection: Connection[Any], table: str, resource: dict[str, Any]) -> None:
        keys = [("identifier", *one) for one in identifiers(resource, self.tenant.ehr.base_url)]
        for key in (*keys, *(mirror_keys(resource) if table == "patient" else ())):
            connection.execute(
                sql.SQL("INSERT INTO mirror.{} VALUES (%s, %s, %s, %s)").format(sql.Identifier(f"{table}_identifier")),
                (run.id, self.tenant.ehr.target, run.identity.digest(*key), resource["id"]),
            )

    def match(self, *refs: PatientRef) -> list[Match]:
        with self._open("decide", self.tenant) as run, run.store.tenant(run.id) as connection:
            return match_patients(connection, run, refs)

    def encounters(self, *wanted: tuple[Sequence[str], str]) -> list[EncounterMatch]:
        asked = [
            EncounterRequest(tuple(Identifier(system=VISIT, value=n) for n in numbers), patient) for numbers, patient in wanted
        ]
        return self.ask_encounters(*asked)

    def ask_encounters(self, *asked: EncounterRequest) -> list[EncounterMatch]:
        with self._open("decide", self.tenant) as run, run.store.tenant(run.id) as connection:
            return match_encounters(connection, run, asked)


def outcome(match: Match) -> tuple[str, str | None, str | None]:
    return match.outcome, match.patient_id, match.reason
