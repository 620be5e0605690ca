"""Sets the stage for decide on a real database: patients in the mirror, records from ingest, and what decide made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click
from click.testing import CliRunner, Result

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.canonical import from_json, to_json
from fhir_writeback_dagster.commit.mirror.rows import identifiers
from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.decide.pipeline import DecideReport, decide
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.orchestration.run_context import RunContext

MRN = "urn:oid:1.2.3.4"
HEART_RATE = {"codings": [{"system": "http://loinc.org", "code": "8867-4", "display": "Heart rate"}]}


def capabilities(**interactions: list[str]) -> dict[str, Any]:
    """A CapabilityStatement: ``capabilities(Observation=["create", "read"])``."""
    resources = [{"type": name, "interaction": [{"code": code} for code in codes]} for name, codes in interactions.items()]
    return {"resourceType": "CapabilityStatement", "rest": [{"mode": "server", "resource": resources}]}


WRITTEN = (
    "AllergyIntolerance", "Condition", "DocumentReference", "Immunization", "MedicationRequest", "Observation", "Procedure",
)  # fmt: skip
EVERYTHING = capabilities(**{name: ["create", "read", "search-type", "update", "patch"] for name in WRITTEN})


@dataclass
class Stage:
    """One tenant; ``now`` is everybody's clock."""

    tenant: Tenant
    open: Callable[..., AbstractContextManager[RunContext]]
    now: datetime = field(default_factory=lambda: datetime(2026, 3, 2, 12, tzinfo=UTC))

    def _workplace(self, layer: str) -> AbstractContextManager[RunContext]:
        return self.open(layer, self.tenant.tenant, now=lambda: self.now)

    @contextmanager
    def open_runs(self, layer: str, _tenant: str | None) -> Iterator[Iterator[RunContext]]:
        """What a command gets to work with."""
        with self._workplace(layer) as run:
            yield iter([run])

    def ask(self, command: click.Command, *arguments: str) -> Result:
        """Invoke a command at this tenant's desk; bad input is no exception."""
        result = CliRunner().invoke(command, list(arguments), obj=self.open_runs)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    def mirror(
        self,
        *patients: dict[str, Any],
        consents: tuple[dict[str, Any], ...] = (),
        encounters: tuple[dict[str, Any], ...] = (),
        statement: dict[str, Any] | None = EVERYTHING,
    ) -> None:
        """Patients as ``{"id", "mrn", "replaced_by"?, "deceased"?}``, encounters as ``{"id", "patient_id", "starts_at",
        "ends_at"?, "status"?}``; the mirror is then newer than every candidate.
        ``statement``: the CapabilityStatement that it has read last.
        """
        with self._workplace("commit") as run, run.store.tenant(run.id) as c:
            if statement is not None:
                c.execute(
                    "INSERT INTO mirror.capability (tenant, target, fetched_at, sha256, body) VALUES (%s, 'ehr', %s, '', %s) "
                    "ON CONFLICT (tenant, target) DO UPDATE SET body = excluded.body",
                    (run.id, self.now, json.dumps(statement)),
                )
            for p in patients:
                resource = {
                    "resourceType": "Patient",
                    "id": p["id"],
                    "identifier": [{"system": MRN, "value": p["mrn"]}],
                    "birthDate": p.get("birth_date", "1970-01-01"),
                    "name": [{"family": p.get("family", "Testperson")}],
                }
                place = f"ehr|{p['id']}"
                c.execute(
                    "INSERT INTO mirror.patient (tenant, target, patient_id, version_id, active, deceased, replaced_by, body, "
                    "fetched_at) VALUES (%s, 'ehr', %s, '1', true, %s, %s, %s, %s) ON CONFLICT (tenant, target, patient_id) "
                    "DO UPDATE SET replaced_by = excluded.replaced_by",
                    (run.id, p["id"], p.get("deceased", False), p.get("replaced_by"),
                     run.sealer.seal_json("mirror.patient", place, resource), self.now),
                )  # fmt: skip
                for system, value in identifiers(resource, self.tenant.ehr.base_url):
                    c.execute(
                        "INSERT INTO mirror.patient_identifier (tenant, target, identifier, patient_id) "
                        "VALUES (%s, 'ehr', %s, %s) ON CONFLICT DO NOTHING",
                        (run.id, run.identity.digest("identifier", system, value), p["id"]),
                    )
            for e in encounters:
                c.execute(
                    "INSERT INTO mirror.encounter (tenant, target, encounter_id, patient_id, status, starts_at, ends_at, "
                    "fetched_at) VALUES (%s, 'ehr', %s, %s, %s, %s, %s, %s)",
                    (
                        run.id,
                        e["id"],
                        e["patient_id"],
                        e.get("status", "in-progress"),
                        e["starts_at"],
                        e.get("ends_at"),
                        self.now,
                    ),
                )
            for consent in consents:
                c.execute(
                    "INSERT INTO mirror.consent (tenant, target, consent_id, version_id, patient_id, status, body, fetched_at) "
                    "VALUES (%s, 'ehr', %s, %s, %s, %s, %s, %s) ON CONFLICT (tenant, target, consent_id) DO UPDATE "
                    "SET body = excluded.body, version_id = excluded.version_id",
                    (run.id, consent["id"], consent["meta"]["versionId"], consent["patient"]["reference"].split("/")[1],
                     consent["status"], run.sealer.seal_json("mirror.consent", f"ehr|{consent['id']}", consent), self.now),
                )  # fmt: skip
            c.execute(
                "INSERT INTO mirror.sync (tenant, target, resource_type, refreshed_at, changed_at) "
                "VALUES (%s, 'ehr', 'Patient', %s, %s) ON CONFLICT (tenant, target, resource_type) "
                "DO UPDATE SET changed_at = excluded.changed_at",
                (run.id, self.now, self.now),
            )

    def tell(
        self,
        mrn: str = "100",
        value: str | int = "72",
        *,
        effective: str = "2026-03-01T08:00:00Z",
        row: str = "row-1",
        source: str = "bedside",
        as_of: datetime | None = None,
        extract: UUID | None = None,
        **fields: Any,
    ) -> UUID:
        """A heart rate as ingest hands it on; returns its record id."""
        heart_rate = {
            "kind": "vital_sign",
            "code": HEART_RATE,
            "effective": effective,
            "quantity": {"value": str(value), "unit": "/min", "code": "/min"},
        }
        return self.say(heart_rate | fields, mrn, row=row, source=source, as_of=as_of, extract=extract)

    def say(
        self,
        fields: dict[str, Any],
        mrn: str = "100",
        *,
        row: str = "row-1",
        source: str = "bedside",
        as_of: datetime | None = None,
        extract: UUID | None = None,
    ) -> UUID:
        """Any record, by its fields and kind."""
        data = {
            "patient": {"identifiers": [{"system": MRN, "value": mrn}]},
            "actor": {"type": "source", "id": source},
            **fields,
        }
        record, record_id, extract = to_json(from_json(data)), new_id(), extract or new_id()
        with self._workplace("ingest") as run, run.store.tenant(run.id) as c:
            told, *former = run.identity.all("source-record", source, str(data["kind"]), row)
            c.execute(
                "INSERT INTO canonical.record (tenant, record_id, extract_id, source, source_version, kind, source_record, "
                "former_records, as_of, position, body) VALUES (%s, %s, %s, %s, 1, %s, %s, %s, %s, 1, %s)",
                (run.id, record_id, extract, source, data["kind"], told, former, as_of,
                 run.sealer.seal("canonical.record", record_id, canonicaljson.encode(record))),
            )  # fmt: skip
            c.execute("INSERT INTO canonical.outbox (tenant, record_id) VALUES (%s, %s)", (run.id, record_id))
        return record_id

    def decide(self) -> DecideReport:
        with self._workplace("decide") as run:
            return decide(run)

    def look_up(self) -> None:
        """As if the mirror's run had found in the EHR whom decide asked for: who stands in the mirror."""
        self.now += timedelta(seconds=1)
        with self._workplace("commit") as run, run.store.tenant(run.id) as c:
            c.execute(
                "UPDATE mirror.lookup SET answered_at = %s, outcome = 'found', due_at = NULL WHERE tenant = %s",
                (self.now, run.id),
            )
            c.execute("UPDATE mirror.sync SET changed_at = %s WHERE tenant = %s", (self.now, run.id))
        self.now += timedelta(seconds=1)

    def candidate(self, record_id: UUID) -> dict[str, Any]:
        return self.rows("SELECT * FROM decision.candidate WHERE record_id = %s", record_id)[0]

    def end_of(self, record_id: UUID) -> tuple[str, str | None]:
        row = self.candidate(record_id)
        return row["state"], row["reason"]

    def context(self, record_id: UUID) -> dict[str, Any]:
        """What policy and consent were asked about the record."""
        row = self.candidate(record_id)
        with self._workplace("decide") as run:
            context: dict[str, Any] = run.sealer.open_json("decision.candidate.context", row["candidate_id"], row["context"])
        return context

    def rows(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        with self._workplace("decide") as run, run.store.tenant(run.id) as c:
            cursor = c.execute(statement, parameters)
            assert cursor.description is not None
            return [dict(zip([d.name for d in cursor.description], row, strict=True)) for row in cursor.fetchall()]

    def withdraw(self, candidate_id: UUID) -> None:
        """What commit does with a candidate whose verdict no longer stood."""
        with self._workplace("commit") as run, run.store.tenant(run.id) as c:
            c.execute("DELETE FROM decision.outbox WHERE tenant = %s AND candidate_id = %s", (run.id, candidate_id))
            c.execute("INSERT INTO ledger.outbox (tenant, candidate_id) VALUES (%s, %s)", (run.id, candidate_id))
