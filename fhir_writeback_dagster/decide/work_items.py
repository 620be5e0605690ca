"""What decide works on: records that wait, and what becomes of each; reading them in sets, never a statement a record."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg import Connection

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.canonical import CanonicalRecord, from_json
from fhir_writeback_dagster.decide.mapping.versions import Mapping
from fhir_writeback_dagster.decide.validation.issues import Issue
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.store.sqlfile import statement


@dataclass(slots=True)
class WorkItem:
    """One canonical record on its way through decide; filled in as it goes."""

    candidate_id: UUID
    record_id: UUID
    extract_id: UUID
    source: str
    source_version: int
    suite: str | None
    kind: str
    source_record: bytes
    former_records: tuple[bytes, ...]
    """The same under older generations of the identity key, newest first."""
    as_of: datetime | None
    record: CanonicalRecord
    data: dict[str, Any]
    input_hash: bytes
    give_up_at: datetime
    again: bool = False
    """It has a candidate already: it waited, or commit gave it back."""
    held_key: str | None = None
    held_revision: int | None = None
    """Key and revision that its candidate holds from an earlier round."""

    mapping: Mapping | None = None
    patient_id: str | None = None
    matched_by: bytes | None = None
    encounter_id: str | None = None
    encounter_status: str | None = None
    encounter_period: tuple[datetime | None, datetime | None] = (None, None)
    encounter_stands_in: bool = False
    """It holds the row's time; the number that the row names never came."""
    person: str | None = None
    keys: list[str] = field(default_factory=list)
    """Every business key that its fact may be known by."""
    business_key: str | None = None
    codings: tuple[tuple[str, str], ...] = ()
    """(system, code) of all codes in the payload."""
    labels: tuple[tuple[str, str], ...] = ()
    """(system, code) of its security labels."""
    payload: dict[str, Any] | None = None
    issues: list[Issue] = field(default_factory=list)
    """What validation found in the payload; warnings only, unless it ended there."""
    content_hash: bytes | None = None
    natural_key: bytes | None = None
    context: dict[str, Any] | None = None
    revision: int | None = None
    accepted: bool = False
    """It is a new revision of its fact."""

    state: str = ""
    reason: str | None = None
    path: str | None = None
    verdict_id: UUID | None = None
    ruling: Ruling | None = None
    versions: dict[str, Any] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)

    def end(self, state: str, reason: str | None, path: str | None = None) -> None:
        """Settle the item; the first word stands."""
        if not self.state:
            self.state, self.reason, self.path = state, reason, path

    @property
    def open(self) -> bool:
        return not self.state


# Single tables by keys, on purpose: right after a bulk load the planner knows nothing of a tenant's rows, and a join that it
# takes for one row to one row goes over them once a row (measured: 3 s, not 30 ms, for 1,000 records beside 5,000).
_FRESH = "SELECT record_id FROM canonical.outbox WHERE tenant = %(tenant)s ORDER BY since, record_id LIMIT %(limit)s"

_RECORDS = """
SELECT record_id, extract_id, source, source_version, suite_sha256, kind, source_record, as_of, body,
  former_records
FROM canonical.record WHERE tenant = %(tenant)s AND record_id = ANY (%(records)s)
ORDER BY created_at, extract_id, position
"""

_CANDIDATES = """
SELECT record_id, candidate_id, business_key, revision, give_up_at
FROM decision.candidate WHERE tenant = %(tenant)s AND target = %(target)s AND record_id = ANY (%(records)s)
"""


def load(connection: Connection[Any], run: RunContext, limit: int) -> list[WorkItem]:
    """The next records to decide: what waits for another look first, then what ingest has made; in order of arrival."""
    scope = {"tenant": run.id, "target": run.tenant.ehr.target, "now": run.now()}
    again = {record for (record,) in connection.execute(statement(__package__, "due_again"), {**scope, "limit": limit})}
    fresh = [record for (record,) in connection.execute(_FRESH, {**scope, "limit": limit - len(again)})]
    wanted = {**scope, "records": [*again, *fresh]}
    if not wanted["records"]:
        return []
    held = {record: rest for record, *rest in connection.execute(_CANDIDATES, wanted)}
    give_up = run.now() + run.tenant.waiting_ttl
    items = []
    for row in connection.execute(_RECORDS, wanted):
        record_id, extract_id, source, version, suite, kind, source_record, as_of, body, former = row
        candidate, key, revision, until = held.get(record_id, (None, None, None, None))
        plain = run.sealer.open("canonical.record", record_id, body)
        record = from_json(canonicaljson.decode(plain))
        items.append(
            WorkItem(
                candidate_id=candidate or new_id(),
                record_id=record_id,
                extract_id=extract_id,
                source=source,
                source_version=version,
                suite=suite.hex() if suite else None,
                kind=kind,
                source_record=bytes(source_record),
                former_records=tuple(map(bytes, former or ())),
                as_of=as_of,
                record=record,
                data=record.model_dump(mode="python", exclude_none=True),
                input_hash=run.identity.digest("input", source, kind, plain.decode()),
                give_up_at=until or give_up,
                again=record_id in again,
                held_key=key,
                held_revision=revision,
            )
        )
    return items


@dataclass(frozen=True, slots=True)
class Reason:
    """One ground of a verdict: which layer said it, a code, and a path or policy id; never a value."""

    layer: Literal["semantic", "consent", "policy", "mode", "match", "target"]
    code: str
    path: str | None = None

    def to_json(self) -> dict[str, str]:
        return {"layer": self.layer, "code": self.code} | ({"path": self.path} if self.path else {})


@dataclass(frozen=True, slots=True)
class Ruling:
    """The verdict with its grounds, the deciding one first."""

    outcome: Literal["automatic", "review", "denied", "not_written"]
    reasons: tuple[Reason, ...]
