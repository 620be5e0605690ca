"""What normalising an extract leaves in the database: its rows, records, work for decide, quarantine and events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import polars as pl
from psycopg import Connection

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.canonical import to_json
from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.ingest.normalise.records import NotARecord, Record
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.store.db import copy_rows, record_event

_ROW = ("tenant", "row_id", "extract_id", "row_number", "disposition", "reason", "record_id", "source_row")
_RECORD = (
    "tenant", "record_id", "extract_id", "source", "source_version", "suite_sha256", "kind", "source_record", "as_of", "position",
    "body", "created_at", "former_records",
)  # fmt: skip
_ITEM = ("tenant", "item_id", "layer", "code", "path", "extract_id", "row_id", "record_id", "opened_at")


@dataclass(frozen=True, slots=True)
class Extract:
    """A landed extract that waits to be read."""

    extract_id: UUID
    source: str
    version: int
    contract_sha256: bytes
    sha256: bytes
    name: str


@dataclass(frozen=True, slots=True)
class ExtractOutcome:
    """What one extract said.

    ``frame`` is as delivered; ``records`` maps each record's id to it, ``others`` the position of every other row to its end;
    ``failed`` are records that an expectation keeps from decide: record id → reason.
    """

    frame: pl.DataFrame
    records: Mapping[UUID, Record]
    others: Mapping[int, NotARecord]
    failed: Mapping[UUID, str]
    suites: Mapping[str, bytes]
    undeclared: int


def landed(connection: Connection[Any], run: RunContext) -> list[Extract]:
    """Extracts that wait, the oldest first."""
    rows = connection.execute(
        "SELECT extract_id, source, source_version, contract_sha256, sha256, name_sealed FROM landing.extract "
        "WHERE tenant = %s AND state = 'landed' ORDER BY received_at, extract_id",
        (run.id,),
    ).fetchall()
    return [
        Extract(row[0], row[1], row[2], bytes(row[3]), bytes(row[4]), run.sealer.open_json("landing.extract", row[0], row[5]))
        for row in rows
    ]


def refuse(connection: Connection[Any], run: RunContext, extract: Extract, error: ExtractRefused) -> None:
    """The extract is refused whole; its file stays where it was."""
    connection.execute(
        "UPDATE landing.extract SET state = 'refused', refusal = %s, refused_line = %s, refused_byte = %s, finished_at = %s, "
        "run_id = %s WHERE tenant = %s AND extract_id = %s",
        (error.code, error.line, error.byte, run.now(), run.run_id, run.id, extract.extract_id),
    )
    place = {"line": error.line, "byte": error.byte}
    details = {"source": extract.source, "code": error.code, **{k: v for k, v in place.items() if v is not None}}
    record_event(connection, "extract.refused", [str(extract.extract_id)], [details])


def store(connection: Connection[Any], run: RunContext, extract: Extract, outcome: ExtractOutcome) -> dict[str, int]:
    """Insert everything that the extract leads to; returns counts for the event and the report."""
    now = run.now()
    of_record = {row: record_id for record_id, record in outcome.records.items() for row in record.rows}
    row_ids = [new_id() for _ in range(outcome.frame.height)]
    copy_rows(connection, "canonical.record", _RECORD, _records(run, extract, outcome, now))
    copy_rows(connection, "canonical.row", _ROW, _rows(run, extract, outcome, row_ids, of_record))
    good = [record_id for record_id in outcome.records if record_id not in outcome.failed]
    copy_rows(connection, "canonical.outbox", ("tenant", "record_id", "since"), ((run.id, record_id, now) for record_id in good))
    copy_rows(connection, "quarantine.item", _ITEM, _items(run, extract, outcome, row_ids, of_record, now))
    counts = _counts(outcome, of_record)
    connection.execute(
        "UPDATE landing.extract SET state = 'ingested', rows = %s, finished_at = %s, run_id = %s "
        "WHERE tenant = %s AND extract_id = %s",
        (outcome.frame.height, now, run.run_id, run.id, extract.extract_id),
    )
    details = {"source": extract.source, "version": extract.version, "undeclared_columns": outcome.undeclared, **counts}
    record_event(connection, "extract.ingested", [str(extract.extract_id)], [details])
    return counts


def _end(outcome: ExtractOutcome, of_record: Mapping[int, UUID], row: int) -> tuple[str, str | None, UUID | None]:
    """Disposition, reason and record of a row: exactly one end, or a KeyError here and nothing is stored."""
    record_id = of_record.get(row)
    if record_id is None:
        other = outcome.others[row]
        return other.disposition, other.reason, None
    if record_id in outcome.failed:
        return "quarantined", outcome.failed[record_id], None
    return "record", None, record_id


def _rows(
    run: RunContext, extract: Extract, outcome: ExtractOutcome, row_ids: Sequence[UUID], of_record: Mapping[int, UUID]
) -> Iterator[tuple[Any, ...]]:
    columns = outcome.frame.columns
    for position, (row_id, texts) in enumerate(zip(row_ids, outcome.frame.iter_rows(), strict=True)):
        said = {column: text for column, text in zip(columns, texts, strict=True) if text is not None}
        source_row = run.sealer.seal_json("canonical.row", row_id, said)
        yield (run.id, row_id, extract.extract_id, position + 1, *_end(outcome, of_record, position), source_row)


def _records(run: RunContext, extract: Extract, outcome: ExtractOutcome, now: datetime) -> Iterator[tuple[Any, ...]]:
    for record_id, record in outcome.records.items():
        kind = record.record.kind
        source_record, *former = run.identity.all("source-record", extract.source, kind, *record.identity)
        body = run.sealer.seal("canonical.record", record_id, canonicaljson.encode(to_json(record.record)))
        yield (
            run.id, record_id, extract.extract_id, extract.source, extract.version, outcome.suites.get(kind), kind, source_record,
            record.as_of, record.rows[0] + 1, body, now, former or None,
        )  # fmt: skip


def _items(
    run: RunContext,
    extract: Extract,
    outcome: ExtractOutcome,
    row_ids: Sequence[UUID],
    of_record: Mapping[int, UUID],
    now: datetime,
) -> Iterator[tuple[Any, ...]]:
    for row, row_id in enumerate(row_ids):
        disposition, reason, _ = _end(outcome, of_record, row)
        if disposition == "quarantined":
            other = outcome.others.get(row)
            column = other.column if other else None
            yield (run.id, new_id(), "ingest", reason, column, extract.extract_id, row_id, of_record.get(row), now)


def _counts(outcome: ExtractOutcome, of_record: Mapping[int, UUID]) -> dict[str, int]:
    ends = Counter(_end(outcome, of_record, row)[0] for row in range(outcome.frame.height))
    return {
        "rows": outcome.frame.height,
        "records": len(outcome.records) - len(outcome.failed),
        "rows_in_records": ends["record"],
        "rows_not_written": ends["not_written"],
        "rows_quarantined": ends["quarantined"],
    }
