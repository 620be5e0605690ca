"""Source records that stated one fact before and state another one now: another patient, time or code.

The resource of the former fact must not stay in the chart unseen. A person gets the task to retract it, also where the new
statement leads to no write: its patient is not known yet, must not be written about, or its content is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.decide.matching.mirror_queries import digests_of
from fhir_writeback_dagster.decide.stages import Decision, Loaded
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


def bring_up(connection: Connection[Any], run: RunContext, decisions: Sequence[Decision], stated: StatedFacts) -> list[Decision]:
    """``decisions``, where each that ended without stating its former fact again has become the task to retract that fact.

    Where no key could be made, the row is about the same fact only if it still bears the identifier that its patient was
    matched by: then the mirror just does not hold them at the moment.
    """
    suspects = [d for d in decisions if _leaves_a_fact(d, stated)]
    by = _matched_by(connection, run, sorted({stated[d.row.source, d.row.source_record] for d in suspects if not d.identified}))
    left = {}
    for decision in suspects:
        former = stated[decision.row.source, decision.row.source_record]
        same = former in decision.identified.keys if decision.identified else by.get(former) in _identifiers(run, decision.row)
        if not same:
            evidence = decision.evidence | {"retract": former, "instead": f"{decision.state}.{decision.reason}"}
            left[decision.row.record_id] = replace(decision, state="in_review", reason="identity_changed", evidence=evidence)
    return [left.get(decision.row.record_id, decision) for decision in decisions]


def _leaves_a_fact(decision: Decision, stated: StatedFacts) -> bool:
    known = (decision.row.source, decision.row.source_record) in stated
    return known and decision.state in _NOWHERE and decision.reason != "identity_changed"


def _matched_by(connection: Connection[Any], run: RunContext, keys: list[str]) -> dict[str, bytes]:
    rows = connection.execute(_MATCHED_BY, (run.id, run.tenant.ehr.target, keys)).fetchall() if keys else []
    return {key: bytes(digest) for key, digest in rows if digest is not None}


def _identifiers(run: RunContext, row: Loaded) -> set[bytes | None]:
    return {digest for identifier in row.record.patient.identifiers for digest in digests_of(run.identity, identifier)}
