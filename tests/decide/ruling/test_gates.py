"""What the matched encounter says against a write that would go without a person."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from fhir_writeback_dagster.canonical import CanonicalRecord, from_json
from fhir_writeback_dagster.decide.ruling.gates import encounter_reasons

PERIOD = (datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 5, tzinfo=UTC))
DURING, LONG_AFTER, JUST_AFTER = "2026-03-02T10:00:00Z", "2026-03-07T10:00:00Z", "2026-03-05T20:00:00Z"
LOINC = {"codings": [{"system": "http://loinc.org", "code": "8867-4"}]}


def record(kind: str, at: str = DURING) -> CanonicalRecord:
    fields: dict[str, dict[str, Any]] = {
        "vital_sign": {"code": LOINC, "effective": at},
        "document": {"type": LOINC, "date": at, "data": "YQ==", "sha256": "00"},
        "medication_request": {"code": LOINC, "authored": at, "status": "active"},
        "condition": {"code": LOINC},
    }
    return from_json({"kind": kind, "patient": {}, "actor": {"type": "source", "id": "s"}, **fields[kind]})


@pytest.mark.parametrize(
    ("kind", "at", "status", "closed", "expected"),
    [
        ("vital_sign", DURING, "in-progress", "review", []),
        ("vital_sign", DURING, "finished", "review", []),
        ("vital_sign", DURING, None, "review", []),
        ("vital_sign", LONG_AFTER, None, "review", []),
        ("document", DURING, "in-progress", "review", []),
        ("document", DURING, "finished", "review", ["encounter_closed"]),
        ("document", DURING, "cancelled", "review", ["encounter_closed"]),
        ("document", DURING, "finished", "permit", []),
        ("medication_request", DURING, "finished", "review", ["encounter_closed"]),
        ("vital_sign", DURING, "entered-in-error", "review", ["encounter_in_error"]),
        ("document", DURING, "entered-in-error", "permit", ["encounter_in_error"]),
        ("vital_sign", JUST_AFTER, "finished", "review", []),
        ("vital_sign", LONG_AFTER, "finished", "review", ["outside_encounter"]),
        ("vital_sign", "2026-02", "finished", "review", []),
        ("vital_sign", "2026-01", "finished", "review", ["outside_encounter"]),
        ("document", LONG_AFTER, "finished", "review", ["encounter_closed", "outside_encounter"]),
        ("condition", DURING, "finished", "review", []),
    ],
)
def test_a_closed_void_or_foreign_time_goes_to_a_person(
    kind: str, at: str, status: str | None, closed: Literal["review", "permit"], expected: list[str]
) -> None:
    assert [reason.code for reason in encounter_reasons(record(kind, at), status, PERIOD, closed)] == expected
