"""Canonical records as the flat rows that suites speak of.

Columns, all kinds: ``record_id``; ``code``, ``system`` (first coding); ``value``, ``comparator`` and ``unit`` (UCUM); ``status``;
``year`` and ``hours_ahead`` (of the record's main time, after the run's clock); ``days_to_end`` (end minus start); ``age_years``
(of the patient at that time, where the row says the birth date); ``encounter_patients`` (how many patients the batch's rows name
with this row's encounter). Of the batch, the same in each row: ``future_share`` (of rows more than a day ahead, 0 in batches of
fewer than 20) and ``newest_days_ago``. Beside these: ``dispenses`` of orders, ``bytes`` of documents, ``phone``, ``email`` and
``fields_said`` of patients. What is not said is null. A record with components is one row for each of them.
``<5`` has the value 5: where a comparator stands, a range is asked of the bound, which is what can be a unit misread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from fhir_writeback_dagster.canonical import CanonicalRecord, Component, Concept, PatientUpdate, Quantity
from fhir_writeback_dagster.ingest.normalise.dates import instant

_START = ("effective", "onset", "authored", "recorded", "occurrence", "start", "date")
_END = ("abatement", "ended", "end")
_DAY = timedelta(days=1)
_SMALL = 20


def flatten(records: Sequence[tuple[str, CanonicalRecord]], zone: str, now: datetime) -> list[dict[str, Any]]:
    """Rows of one kind's batch: pairs of record id and record, times without an offset in ``zone``."""
    bearers: dict[object, set[object]] = {}
    for _, record in records:
        if record.encounter:
            bearers.setdefault(record.encounter, set()).add(record.patient.identifiers)
    rows = []
    for record_id, record in records:
        patients = len(bearers.get(record.encounter, ())) or None
        for row in _rows(record_id, record, zone, now):
            row["encounter_patients"] = patients
            rows.append(row)
    hours = [row["hours_ahead"] for row in rows if row["hours_ahead"] is not None]
    share = sum(ahead > 24 for ahead in hours) / len(rows) if len(rows) >= _SMALL else 0.0
    of_batch = {"future_share": share, "newest_days_ago": -max(hours) / 24 if hours else None}
    for row in rows:
        row.update(of_batch)
    return rows


def _rows(record_id: str, record: CanonicalRecord, zone: str, now: datetime) -> Iterator[dict[str, Any]]:
    start, end = (_first(record, names, zone) for names in (_START, _END))
    row: dict[str, Any] = {
        "record_id": record_id,
        "status": getattr(record, "clinical_status", None) or getattr(record, "status", None),
        "year": None if start is None else start.year,
        "hours_ahead": None if start is None else (start - now).total_seconds() / 3600,
        "age_years": _age(record.patient.birth_date, start),
        "days_to_end": None if start is None or end is None else (end - start) / _DAY,
        "dispenses": getattr(record, "dispenses", None),
        "bytes": len(getattr(record, "data", "")) * 3 // 4,
    }
    if isinstance(record, PatientUpdate):
        said = record.model_dump(include={"phone", "email", "line", "city", "state", "postal_code", "country"}, exclude_none=True)
        row |= {"phone": record.phone, "email": record.email, "fields_said": len(said)}
    parts: Sequence[Component | CanonicalRecord] = getattr(record, "components", ()) or (record,)
    for part in parts:
        yield (
            row | _coded(getattr(part, "code", None) or getattr(part, "type", None)) | _measured(getattr(part, "quantity", None))
        )


def _first(record: CanonicalRecord, names: Sequence[str], zone: str) -> datetime | None:
    text = next((value for name in names if (value := getattr(record, name, None))), None)
    return None if text is None else instant(text, zone)


def _age(born: str | None, at: datetime | None) -> float:
    """In years of 365.25 days; NaN where it cannot be said, which meets no condition. A coarse birth date is its first day."""
    if born is None or at is None or len(born) < 4:
        return float("nan")
    year, month, day = (int(part) for part in (*born[:10].split("-"), "1", "1")[:3])
    return (at.date() - date(year, month, day)).days / 365.25


def _coded(concept: object) -> dict[str, Any]:
    coding = concept.codings[0] if isinstance(concept, Concept) and concept.codings else None
    return {"code": coding.code if coding else None, "system": coding.system if coding else None}


def _measured(quantity: Quantity | None) -> dict[str, Any]:
    if quantity is None:
        return {"value": float("nan"), "comparator": None, "unit": None}
    return {"value": float(quantity.value), "comparator": quantity.comparator, "unit": quantity.code}
