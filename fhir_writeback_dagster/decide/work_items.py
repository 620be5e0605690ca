"""The records that wait for a decision, read in sets, never a statement a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import Connection

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.canonical import from_json
from fhir_writeback_dagster.decide.stages import Loaded
from fhir_writeback_dagster.errors import WritebackError
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.store.sqlfile import statement

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


@dataclass(frozen=True, slots=True)
class UnreadableRecord:
    """A record that waits and cannot be read: its key was shredded, or what is sealed was altered or is no record of ours."""

    record_id: UUID
    extract_id: UUID
    code: str


def load(connection: Connection[Any], run: RunContext, limit: int) -> tuple[list[Loaded], list[UnreadableRecord]]:
    """The next records to decide: what waits for another look first, then what ingest has made; in order of arrival. One that
    cannot be read is set apart, and the others go on.
    """
    scope = {"tenant": run.id, "target": run.tenant.ehr.target, "now": run.now()}
    again = {record for (record,) in connection.execute(statement(__package__, "due_again"), {**scope, "limit": limit})}
    fresh = [record for (record,) in connection.execute(_FRESH, {**scope, "limit": limit - len(again)})]
    wanted = {**scope, "records": [*again, *fresh]}
    if not wanted["records"]:
        return [], []
    held = {record: rest for record, *rest in connection.execute(_CANDIDATES, wanted)}
    give_up = run.now() + run.tenant.waiting_ttl
    items: list[Loaded] = []
    unreadable: list[UnreadableRecord] = []
    for row in connection.execute(_RECORDS, wanted):
        record_id, extract_id, source, version, suite, kind, source_record, as_of, body, former = row
        candidate, key, revision, until = held.get(record_id, (None, None, None, None))
        try:
            plain = run.sealer.open("canonical.record", record_id, body)
            record = from_json(canonicaljson.decode(plain))
        except (WritebackError, ValueError, RecursionError) as error:
            code = error.code if isinstance(error, WritebackError) else "unreadable_record"
            unreadable.append(UnreadableRecord(record_id, extract_id, code))
            continue
        items.append(
            Loaded(
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
    return items, unreadable
