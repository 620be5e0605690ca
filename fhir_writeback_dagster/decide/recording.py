"""Writing down what decide made of a batch: everything in the transaction that read it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from fhir_writeback_dagster.decide.facts.placement import Fact
from fhir_writeback_dagster.decide.work_items import WorkItem
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.store.db import copy_rows, record_event

_CANDIDATE = (
    "tenant candidate_id record_id target source kind resource_type mapping_version as_of input_hash patient_id matched_by "
    "encounter_id person_id business_key natural_key revision content_hash payload context state reason verdict_id decided_at "
    "give_up_at must_keep"
).split()


def store(
    connection: Connection[Any], run: RunContext, items: Sequence[WorkItem], facts: dict[str, Fact], decided_at: datetime
) -> None:
    """Candidates, verdicts, revisions, queues, review tasks, quarantine and audit events of one batch.

    :param decided_at: before anything was read: what waits looks again at a mirror that changed after it.
    """
    _verdicts(connection, run, items)
    _candidates(connection, run, items, decided_at)
    _memory(connection, run, items, facts)
    approved = [(run.id, item.candidate_id) for item in items if item.state == "approved"]
    copy_rows(connection, "decision.outbox", ["tenant", "candidate_id"], approved)
    _review(connection, run, [item for item in items if item.state == "in_review"])
    _quarantine(connection, run, [item for item in items if item.state == "quarantined"])
    connection.execute(
        "DELETE FROM canonical.outbox WHERE tenant = %s AND record_id = ANY(%s)", (run.id, [i.record_id for i in items])
    )
    connection.execute(
        "DELETE FROM ledger.outbox WHERE tenant = %s AND candidate_id = ANY(%s)", (run.id, [i.candidate_id for i in items])
    )
    for state in sorted({item.state for item in items}):
        # A record that still waits has changed nothing: no event.
        told = [i for i in items if i.state == state and not (i.again and state == "waiting")]
        details = [
            {
                "reason": i.reason,
                "verdict": str(i.verdict_id) if i.verdict_id else None,
                "key": i.business_key,
                "revision": i.revision,
            }
            for i in told
        ]
        record_event(connection, f"candidate.{state}", [str(i.candidate_id) for i in told], details)


def _candidates(connection: Connection[Any], run: RunContext, items: Sequence[WorkItem], decided_at: datetime) -> None:
    target = run.tenant.ehr.target
    copy_rows(
        connection,
        "decision.candidate",
        _CANDIDATE,
        (
            (
                run.id,
                i.candidate_id,
                i.record_id,
                target,
                i.source,
                i.kind,
                i.mapping.resource_type if i.mapping else "Unknown",
                i.mapping.version if i.mapping else 0,
                i.as_of,
                i.input_hash,
                i.patient_id,
                i.matched_by,
                i.encounter_id,
                i.person,
                i.business_key,
                i.natural_key,
                i.revision,
                i.content_hash,
                run.sealer.seal_json("decision.candidate.payload", i.candidate_id, i.payload) if i.payload else None,
                run.sealer.seal_json("decision.candidate.context", i.candidate_id, i.context) if i.context else None,
                i.state,
                i.reason,
                i.verdict_id,
                decided_at,
                i.give_up_at if i.state == "waiting" or i.encounter_stands_in else None,
                list(i.mapping.must_keep) if i.mapping else None,
            )
            for i in items
        ),
        replace_by=["tenant", "candidate_id"],
    )


def _verdicts(connection: Connection[Any], run: RunContext, items: Sequence[WorkItem]) -> None:
    now = run.now()
    copy_rows(
        connection,
        "decision.verdict",
        ["tenant", "verdict_id", "candidate_id", "outcome", "reasons", "versions", "made_at", "expires_at"],
        (
            (
                run.id,
                i.verdict_id,
                i.candidate_id,
                i.ruling.outcome,
                Jsonb([*(reason.to_json() for reason in i.ruling.reasons), *(issue.to_json() for issue in i.issues)]),
                Jsonb(i.versions),
                now,
                now + run.tenant.verdict_ttl,
            )
            for i in items
            if i.verdict_id and i.ruling
        ),
    )


def _memory(connection: Connection[Any], run: RunContext, items: Sequence[WorkItem], facts: dict[str, Fact]) -> None:
    target = run.tenant.ehr.target
    accepted = [i for i in items if i.accepted]
    copy_rows(
        connection,
        "decision.fact",
        ["tenant", "target", "business_key", "kind", "person_id", "owner_source", "revision"],
        (
            (run.id, target, key, i.kind, i.person, facts[key].owner, facts[key].revisions[-1].number)
            for key, i in {i.business_key: i for i in accepted if i.business_key}.items()
        ),
        replace_by=["tenant", "target", "business_key"],
    )
    copy_rows(
        connection,
        "decision.revision",
        [
            "tenant",
            "target",
            "business_key",
            "revision",
            "content_hash",
            "as_of",
            "mapping_version",
            "candidate_id",
            "extract_id",
        ],
        (
            (
                run.id,
                target,
                i.business_key,
                i.revision,
                i.content_hash,
                i.as_of,
                i.mapping.version,
                i.candidate_id,
                i.extract_id,
            )
            for i in accepted
            if i.mapping
        ),
    )
    copy_rows(
        connection,
        "decision.source_record",
        ["tenant", "target", "source", "source_record", "business_key"],
        {
            (run.id, target, i.source, i.source_record): (run.id, target, i.source, i.source_record, i.business_key)
            for i in accepted
        }.values(),
        replace_by=["tenant", "target", "source", "source_record"],
    )
    void = [i for i in items if i.held_revision is not None and i.state in ("denied", "quarantined")]
    connection.execute(
        "UPDATE decision.revision r SET void = true FROM unnest(%s::text[], %s::int[]) AS x (key, number) "
        "WHERE r.tenant = %s AND r.target = %s AND r.business_key = x.key AND r.revision = x.number",
        ([i.held_key for i in void], [i.held_revision for i in void], run.id, target),
    )
    anew = [i for i in items if i.held_revision is not None and i.revision == i.held_revision and i.verdict_id and i.mapping]
    connection.execute(
        "UPDATE decision.revision r SET content_hash = x.content, mapping_version = x.mapping "
        "FROM unnest(%s::text[], %s::int[], %s::bytea[], %s::int[]) AS x (key, number, content, mapping) "
        "WHERE r.tenant = %s AND r.target = %s AND r.business_key = x.key AND r.revision = x.number "
        "AND r.content_hash <> x.content",
        (
            [i.business_key for i in anew],
            [i.held_revision for i in anew],
            [i.content_hash for i in anew],
            [i.mapping.version for i in anew if i.mapping],
            run.id,
            target,
        ),
    )
    # The source says the same as of later: what lies between is older than this now.
    again = [i for i in items if i.reason == "equal_to_latest" and i.as_of is not None and i.revision is not None]
    connection.execute(
        "UPDATE decision.revision r SET as_of = x.as_of "
        "FROM (SELECT key, number, max(t) FROM unnest(%s::text[], %s::int[], %s::timestamptz[]) AS u (key, number, t) "
        "GROUP BY 1, 2) AS x (key, number, as_of) "
        "WHERE r.tenant = %s AND r.target = %s AND r.business_key = x.key AND r.revision = x.number AND r.as_of < x.as_of",
        ([i.business_key for i in again], [i.revision for i in again], [i.as_of for i in again], run.id, target),
    )


def _review(connection: Connection[Any], run: RunContext, items: Sequence[WorkItem]) -> None:
    """Open a task for each; one that is open already for the same content and reason is kept."""
    standing = {
        (candidate, reason, bytes(content) if content else None)
        for candidate, reason, content in connection.execute(
            "SELECT candidate_id, reason, content_hash FROM review.task "
            "WHERE tenant = %s AND state = 'open' AND candidate_id = ANY(%s)",
            (run.id, [i.candidate_id for i in items]),
        )
    }
    copy_rows(
        connection,
        "review.task",
        ["tenant", "task_id", "candidate_id", "opened_by", "reason", "content_hash", "evidence"],
        (
            (run.id, new_id(), i.candidate_id, "decide", i.reason, i.content_hash, Jsonb(i.evidence))
            for i in items
            if (i.candidate_id, i.reason, i.content_hash) not in standing
        ),
    )


def _quarantine(connection: Connection[Any], run: RunContext, items: Sequence[WorkItem]) -> None:
    copy_rows(
        connection,
        "quarantine.item",
        ["tenant", "item_id", "layer", "code", "path", "extract_id", "record_id", "candidate_id", "verdict_id"],
        ((run.id, new_id(), "decide", i.reason, i.path, i.extract_id, i.record_id, i.candidate_id, i.verdict_id) for i in items),
    )
