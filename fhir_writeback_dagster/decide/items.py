"""What decide works on: records that wait, and what becomes of each; reading them in sets, never a statement a record."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.canonical import CanonicalRecord, from_json
from fhir_writeback_dagster.decide.gates import Ruling
from fhir_writeback_dagster.decide.mapping import Mapping
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.workplace import Workplace


@dataclass(slots=True)
class Item:
    """One canonical record on its way through decide; filled in as it goes."""

    candidate_id: UUID
    record_id: UUID
    extract_id: UUID
    source: str
    source_version: int
    suite: str | None
    kind: str
    source_record: bytes
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
    person: str | None = None
    keys: list[str] = field(default_factory=list)
    """Every business key that its fact may be known by."""
    business_key: str | None = None
    payload: dict[str, Any] | None = None
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


_COLUMNS = (
    "r.record_id, r.extract_id, r.source, r.source_version, r.suite_sha256, r.kind, r.source_record, r.as_of, r.body, "
    "c.candidate_id, c.business_key, c.revision, c.give_up_at"
)

_FRESH = f"""
SELECT {_COLUMNS}
FROM canonical.outbox o
JOIN canonical.record r ON r.tenant = o.tenant AND r.record_id = o.record_id
LEFT JOIN decision.candidate c ON c.tenant = o.tenant AND c.record_id = o.record_id AND c.target = %(target)s
WHERE o.tenant = %(tenant)s
ORDER BY r.created_at, r.extract_id, r.position LIMIT %(limit)s
"""  # noqa: S608 - constant columns

_AGAIN = f"""
SELECT {_COLUMNS}
FROM (
  SELECT o.candidate_id FROM ledger.outbox o WHERE o.tenant = %(tenant)s
  UNION
  SELECT w.candidate_id FROM decision.candidate w
  WHERE w.tenant = %(tenant)s AND w.target = %(target)s AND w.state = 'waiting' AND (w.give_up_at <= %(now)s OR EXISTS (
    SELECT 1 FROM mirror.sync s WHERE s.tenant = w.tenant AND s.target = w.target AND s.changed_at > w.decided_at))
) again
JOIN decision.candidate c ON c.tenant = %(tenant)s AND c.candidate_id = again.candidate_id
JOIN canonical.record r ON r.tenant = c.tenant AND r.record_id = c.record_id
ORDER BY r.created_at, r.extract_id, r.position LIMIT %(limit)s
"""  # noqa: S608 - constant columns


def load(connection: Connection[Any], w: Workplace, limit: int) -> list[Item]:
    """The next records to decide: what waits for another look first, then what ingest has made; in order of arrival."""
    parameters = {"tenant": w.id, "target": w.tenant.ehr.target, "limit": limit, "now": w.now()}
    rows = connection.execute(_AGAIN, parameters).fetchall()
    again = len(rows)
    rows += connection.execute(_FRESH, {**parameters, "limit": limit - again}).fetchall()
    give_up = w.now() + w.tenant.waiting_ttl
    items = []
    for number, row in enumerate(rows):
        record_id, extract_id, source, version, suite, kind, source_record, as_of, body, candidate, key, revision, until = row
        plain = w.sealer.open("canonical.record", record_id, body)
        record = from_json(canonicaljson.decode(plain))
        items.append(
            Item(
                candidate_id=candidate or new_id(),
                record_id=record_id,
                extract_id=extract_id,
                source=source,
                source_version=version,
                suite=suite.hex() if suite else None,
                kind=kind,
                source_record=bytes(source_record),
                as_of=as_of,
                record=record,
                data=record.model_dump(mode="python", exclude_none=True),
                input_hash=w.identity.digest("input", source, kind, plain.decode()),
                give_up_at=until or give_up,
                again=number < again,
                held_key=key,
                held_revision=revision,
            )
        )
    return items
