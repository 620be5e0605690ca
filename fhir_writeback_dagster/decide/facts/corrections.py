"""Source records that stated one fact before and state another one now: another patient, time or code.

The resource of the former fact must not stay in the chart unseen. A person gets the task to retract it, also where the new
statement leads to no write: its patient is not known yet, must not be written about, or its content is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.decide.matching.mirror_queries import digests_of
from fhir_writeback_dagster.decide.work_items import WorkItem
from fhir_writeback_dagster.orchestration.run_context import RunContext

StatedFacts = Mapping[tuple[str, bytes], str]
"""(source, source record) → the business key of the fact that the record stated last time."""

_NOWHERE = frozenset({"waiting", "quarantined", "denied", "in_review"})

_MATCHED_BY = """
SELECT DISTINCT ON (r.business_key) r.business_key, c.matched_by
FROM decision.revision r
JOIN decision.candidate c ON c.tenant = r.tenant AND c.candidate_id = r.candidate_id
WHERE r.tenant = %s AND r.target = %s AND r.business_key = ANY (%s) AND NOT r.void
ORDER BY r.business_key, r.revision DESC
"""


def bring_up(connection: Connection[Any], run: RunContext, items: Sequence[WorkItem], told: StatedFacts) -> None:
    """Turn every record that ended without stating its former fact again into the task to retract that fact.

    Where no key could be made, the row is about the same fact only if it still bears the identifier that its patient was
    matched by: then the mirror just does not hold them at the moment.
    """
    ended = [i for i in items if i.state in _NOWHERE and i.reason != "identity_changed" and (i.source, i.source_record) in told]
    unmatched = [i for i in ended if i.business_key is None]
    by = _matched_by(connection, run, sorted({told[i.source, i.source_record] for i in unmatched}))
    for item in ended:
        before = told[item.source, item.source_record]
        if before in item.keys or (item.business_key is None and by.get(before) in _identifiers(run, item)):
            continue
        item.evidence |= {"retract": before, "instead": f"{item.state}.{item.reason}"}
        item.state, item.reason = "in_review", "identity_changed"


def _matched_by(connection: Connection[Any], run: RunContext, keys: list[str]) -> dict[str, bytes]:
    rows = connection.execute(_MATCHED_BY, (run.id, run.tenant.ehr.target, keys)).fetchall() if keys else []
    return {key: bytes(digest) for key, digest in rows if digest is not None}


def _identifiers(run: RunContext, item: WorkItem) -> set[bytes | None]:
    return {digest for identifier in item.record.patient.identifiers for digest in digests_of(run.identity, identifier)}
