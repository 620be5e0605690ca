"""The last candidates that decide has made, opened again, for commands that ask what a change would have made of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.decide.mapping.versions import Refs
from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.policy.cedar import PolicyRequest

_RECORDS = """
SELECT c.record_id, c.patient_id, c.encounter_id, c.business_key, r.body
FROM decision.candidate c JOIN canonical.record r ON r.tenant = c.tenant AND r.record_id = c.record_id
WHERE c.tenant = %s AND r.tenant = %s AND c.target = %s AND c.kind = %s
  AND c.patient_id IS NOT NULL AND c.business_key IS NOT NULL
ORDER BY c.decided_at DESC, c.candidate_id LIMIT %s
"""

_VERDICTS = """
SELECT v.candidate_id, c.resource_type, v.outcome, v.reasons, c.context
FROM decision.verdict v JOIN decision.candidate c ON c.tenant = v.tenant AND c.verdict_id = v.verdict_id
WHERE v.tenant = %s AND c.tenant = %s AND c.target = %s AND c.context IS NOT NULL
ORDER BY v.made_at DESC, v.verdict_id LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class StatedRecord:
    """A canonical record in the form of :func:`canonical.to_json`, with the references that its candidate was rendered with."""

    record: dict[str, Any]
    refs: Refs


@dataclass(frozen=True, slots=True)
class PastVerdict:
    """A verdict with what the policies were asked for it."""

    candidate_id: UUID
    resource_type: str
    outcome: str
    reasons: list[dict[str, str]]
    ask: PolicyRequest


def last_records(run: RunContext, kind: str, count: int) -> Iterator[StatedRecord]:
    """The newest ``count`` matched records of ``kind``; one whose month is shredded is left out."""
    with run.store.tenant(run.id) as connection:
        rows = connection.execute(_RECORDS, (run.id, run.id, run.tenant.ehr.target, kind, count)).fetchall()
    for record_id, patient, encounter, key, body in rows:
        with contextlib.suppress(ServiceError):
            record = canonicaljson.decode(run.sealer.open("canonical.record", record_id, body))
            refs = Refs(f"Patient/{patient}", f"Encounter/{encounter}" if encounter else None, run.tenant.identifier_system, key)
            yield StatedRecord(record, refs)


def last_verdicts(run: RunContext, count: int) -> Iterator[PastVerdict]:
    """The newest ``count`` verdicts that stand; one whose month is shredded is left out."""
    with run.store.tenant(run.id) as connection:
        rows = connection.execute(_VERDICTS, (run.id, run.id, run.tenant.ehr.target, count)).fetchall()
    for candidate_id, resource_type, outcome, reasons, context in rows:
        with contextlib.suppress(ServiceError):
            asked = run.sealer.open_json("decision.candidate.context", candidate_id, context)
            grounds = [reason for reason in reasons if reason.get("severity") != "warning"]  # these decide nothing
            yield PastVerdict(candidate_id, resource_type, outcome, grounds, PolicyRequest.from_json(asked["policy"]))
