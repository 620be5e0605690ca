"""A hospital for tests: one source of the test's own, its landing zone, and what ingest left in the database."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from support import Database

from fhir_writeback_dagster.config.settings import Settings
from fhir_writeback_dagster.config.tenants import Tenant, load_tenant
from fhir_writeback_dagster.ingest.landing.watch import read_states, waiting

VITALS = """
source: vitals
version: 1
tables:
  vitals:
    files: "vitals*.csv"
    format: csv
    columns: {id: operational, mrn: chart, at: chart, item: chart, value: chart, unit: chart, note: source_only}
    patient: {identifiers: [{column: mrn, name: mrn}]}
    identity: [id]
    fields:
      effective: {column: at, order: dmy}
      code: {column: item, concept_map: vitals}
      quantity: {column: value, unit_column: unit}
    rows:
      - when: {item: [SYS, DIA]}
        kind: vital_sign
        group: {by: [mrn, at], code: {system: "http://loinc.org", code: 85354-9}}
      - when: {item: [DIET]}
        not_written: source_truth_only
      - when: {item: present}
        kind: vital_sign
"""
CODES = {"HR": "8867-4", "WT": "29463-7", "SYS": "8480-6", "DIA": "8462-4"}
HEADER = "id,mrn,at,item,value,unit,note\n"
NOTE = "Whisper-of-a-patient"


def row(
    number: object, *, mrn: str = "M1", at: str = "31.12.2024 10:00", item: str = "HR", value: str = "72", unit: str = "bpm"
) -> str:
    return f"{number},{mrn},{at},{item},{value},{unit},{NOTE}\n"


def concept_map(codes: dict[str, str]) -> str:
    elements = [{"code": code, "target": [{"code": loinc, "equivalence": "equal"}]} for code, loinc in codes.items()]
    group = {"source": "urn:vitals", "target": "http://loinc.org", "element": elements}
    return json.dumps({"resourceType": "ConceptMap", "status": "active", "group": [group]})


class Hospital:
    """A tenant, its zone, and questions to the database (as its superuser: row-level security is tested elsewhere)."""

    def __init__(self, database: Database, home: Path, tenant: Tenant) -> None:
        self.database, self.home, self.tenant = database, home, tenant
        self.zone = home / next(iter(tenant.sources.values())).landing

    def deliver(self, name: str, text: str | bytes) -> Path:
        """By rename, as a zone wants it."""
        part = self.zone / f".{name}.part"
        part.write_bytes(text.encode() if isinstance(text, str) else text)
        return part.rename(self.zone / name)

    def promise(self, name: str, data: bytes | None = None) -> None:
        """Write the manifest of a delivered file, of ``data`` where it shall be wrong."""
        digest = hashlib.sha256((self.zone / name).read_bytes() if data is None else data).hexdigest()
        (self.zone / f"{name}.manifest.json").write_text(json.dumps({"sha256": digest}))

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database.superuser) as connection:
            return connection.execute(statement.replace("$tenant", f"'{self.tenant.tenant}'")).fetchall()

    def waits(self, now: datetime | None = None) -> int:
        """How many files and extracts the sensor would ask a run for."""
        settings = Settings(self.home, "ingest", self.database.dsn("ingest"))
        with psycopg.connect(settings.dsn) as connection:
            tenant = load_tenant(settings.tenants, self.tenant.tenant)
            found = waiting(settings, tenant, read_states(connection), now or datetime.now(UTC))
        return found.items if found else 0

    def ends(self) -> dict[int, tuple[str, str | None]]:
        """Row number → disposition and reason."""
        found = self.ask("SELECT row_number, disposition, reason FROM canonical.row WHERE tenant = $tenant ORDER BY row_id")
        return {number: (disposition, reason) for number, disposition, reason in found}

    def extracts(self) -> list[tuple[str, str | None, int | None, int | None]]:
        return self.ask(
            "SELECT state, refusal, refused_line, refused_byte FROM landing.extract WHERE tenant = $tenant ORDER BY received_at"
        )


def own_mappings(home: Path) -> Path:
    """Replace the shipped mappings by an empty folder."""
    (home / "mappings").unlink()
    for name in ("sources", "concepts"):
        (home / "mappings" / name).mkdir(parents=True)
    return home / "mappings"


def write_source(mappings: Path, text: str = VITALS, source: str = "vitals", version: int = 1) -> None:
    path = mappings / "sources" / source / f"{version}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    (mappings / "concepts" / "vitals.json").write_text(concept_map(CODES))
