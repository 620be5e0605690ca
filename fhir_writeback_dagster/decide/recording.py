"""Writing down what decide made of a batch: everything in the transaction that read it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from fhir_writeback_dagster.decide.facts.placement import Fact
from fhir_writeback_dagster.decide.stages import Decision
from fhir_writeback_dagster.decide.work_items import UnreadableRecord
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.store.db import copy_rows, record_event

_CANDIDATE = (
    "tenant candidate_id record_id target source kind resource_type mapping_version as_of input_hash patient_id matched_by "
    "encounter_id person_id business_key revision content_hash payload context state reason verdict_id decided_at "
    "give_up_at must_keep"
).split()


def store(
    connection: Connection[Any], run: RunContext, decisions: Sequence[Decision], facts: dict[str, Fact], decided_at: datetime
) -> None:
    """Candidates, verdicts, revisions, queues, review tasks, quarantine and audit events of one batch.

    :param decided_at: before anything was read: what waits looks again at a mirror that changed after it.
    """
    _verdicts(connection, run, decisions)
    _candidates(connection, run, decisions, decided_at)
    _memory(connection, run, decisions, facts)
    approved = [(run.id, d.row.candidate_id) for d in decisions if d.state == "approved"]
    copy_rows(connection, "decision.outbox", ["tenant", "candidate_id"], approved)
    _review(connection, run, [d for d in decisions if d.state == "in_review"])
    _quarantine(connection, run, [d for d in decisions if d.state == "quarantined"])
    connection.execute(
        "DELETE FROM canonical.outbox WHERE tenant = %s AND record_id = ANY(%s)", (run.id, [d.row.record_id for d in decisions])
    )
    connection.execute(
        "DELETE FROM ledger.outbox WHERE tenant = %s AND candidate_id = ANY(%s)",
        (run.id, [d.row.candidate_id for d in decisions]),
    )
    for state in sorted({d.state for d in decisions}):
        # A record that still waits has changed nothing: no event.
        changed = [d for d in decisions if d.state == state and not (d.row.again and state == "waiting")]
        details = [
            {
                "reason": d.reason,
                "verdict": str(d.verdict_id) if d.verdict_id else None,
                "key": d.identified.business_key if d.identified else None,
                "revision": d.revision,
            }
            for d in changed
        ]
        record_event(connection, f"candidate.{state}", [str(d.row.candidate_id) for d in changed], details)


def set_apart(connection: Connection[Any], run: RunContext, unreadable: Sequence[UnreadableRecord]) -> None:
    """Quarantine the records that could not be read, with their code, and take them out of every queue."""
    records = [one.record_id for one in unreadable]
    known = dict(
        connection.execute(
            "UPDATE decision.candidate SET state = 'quarantined', reason = x.code, decided_at = now() "
            "FROM unnest(%s::uuid[], %s::text[]) AS x (record, code) WHERE tenant = %s AND target = %s AND record_id = x.record "
            "RETURNING record_id, candidate_id",
            (records, [one.code for one in unreadable], run.id, run.tenant.ehr.target),
        ).fetchall()
    )
    copy_rows(
        connection,
        "quarantine.item",
        ["tenant", "item_id", "layer", "code", "extract_id", "record_id", "candidate_id"],
        ((run.id, new_id(), "decide", one.code, one.extract_id, one.record_id, known.get(one.record_id)) for one in unreadable),
    )
    connection.execute("DELETE FROM canonical.outbox WHERE tenant = %s AND record_id = ANY(%s)", (run.id, records))
    connection.execute("DELETE FROM ledger.outbox WHERE tenant = %s AND candidate_id = ANY(%s)", (run.id, list(known.values())))
    record_event(connection, "record.unreadable", [str(r) for r in records], [{"reason": one.code} for one in unreadable])


def _candidates(connection: Connection[Any], run: RunContext, decisions: Sequence[Decision], decided_at: datetime) -> None:
    copy_rows(
        connection,
        "decision.candidate",
        _CANDIDATE,
        (_candidate(run, decision, decided_at) for decision in decisions),
        replace_by=["tenant", "candidate_id"],
    )


def _candidate(run: RunContext, d: Decision, decided_at: datetime) -> tuple[Any, ...]:
    row, payload, context = d.row, d.mapped.payload if d.mapped else None, d.ruled.context if d.ruled else None
    stands_in = d.matched is not None and d.matched.stands_in
    return (
        run.id,
        row.candidate_id,
        row.record_id,
        run.tenant.ehr.target,
        row.source,
        row.kind,
        d.mapping.resource_type if d.mapping else "Unknown",
        d.mapping.version if d.mapping else 0,
        row.as_of,
        row.input_hash,
        d.match.patient_id if d.match else None,
        d.match.matched_by if d.match else None,
        d.encounter.encounter_id if d.encounter else None,
        d.identified.person if d.identified else None,
        d.identified.business_key if d.identified else None,
        d.revision,
        d.mapped.content_hash if d.mapped else None,
        run.sealer.seal_json("decision.candidate.payload", row.candidate_id, payload) if payload else None,
        run.sealer.seal_json("decision.candidate.context", row.candidate_id, context) if context else None,
        d.state,
        d.reason,
        d.verdict_id,
        decided_at,
        row.give_up_at if d.state == "waiting" or stands_in else None,
        list(d.mapping.must_keep) if d.mapping else None,
    )


def _verdicts(connection: Connection[Any], run: RunContext, decisions: Sequence[Decision]) -> None:
    now = run.now()
    copy_rows(
        connection,
        "decision.verdict",
        ["tenant", "verdict_id", "candidate_id", "outcome", "reasons", "versions", "made_at", "expires_at"],
        (
            (
                run.id,
                d.verdict_id,
                d.row.candidate_id,
                ruled.ruling.outcome,
                Jsonb([*(r.to_json() for r in ruled.ruling.reasons), *(issue.to_json() for issue in ruled.mapped.issues)]),
                Jsonb(dict(ruled.versions)),
                now,
                now + run.tenant.verdict_ttl,
            )
            for d in decisions
            if d.verdict_id and (ruled := d.ruled)
        ),
    )


def _memory(connection: Connection[Any], run: RunContext, decisions: Sequence[Decision], facts: dict[str, Fact]) -> None:
    target = run.tenant.ehr.target
    accepted = [(d, d.mapped, d.mapped.business_key) for d in decisions if d.accepted and d.mapped]
    copy_rows(
        connection,
        "decision.fact",
        ["tenant", "target", "business_key", "kind", "person_id", "owner_source", "revision"],
        (
            (run.id, target, key, m.row.kind, m.identified.person, facts[key].owner, facts[key].revisions[-1].number)
            for key, m in {key: mapped for _, mapped, key in accepted}.items()
        ),
        replace_by=["tenant", "target", "business_key"],
    )
    copy_rows(
        connection,
        "decision.revision",
        "tenant target business_key revision content_hash as_of mapping_version candidate_id extract_id".split(),
        (
            (
                run.id,
                target,
                key,
                d.revision,
                m.content_hash,
                m.row.as_of,
                m.mapping.version,
                m.row.candidate_id,
                m.row.extract_id,
            )
            for d, m, key in accepted
        ),
    )
    copy_rows(
        connection,
        "decision.source_record",
        ["tenant", "target", "source", "source_record", "business_key"],
        {
            (m.row.source, m.row.source_record): (run.id, target, m.row.source, m.row.source_record, key)
            for _, m, key in accepted
        }.values(),
        replace_by=["tenant", "target", "source", "source_record"],
    )
    void = [d.row for d in decisions if d.row.held_revision is not None and d.state in ("denied", "quarantined")]
    connection.execute(
        "UPDATE decision.revision r SET void = true FROM unnest(%s::text[], %s::int[]) AS x (key, number) "
        "WHERE r.tenant = %s AND r.target = %s AND r.business_key = x.key AND r.revision = x.number",
        ([row.held_key for row in void], [row.held_revision for row in void], run.id, target),
    )
    anew = [
        m for d in decisions if d.verdict_id and (m := d.mapped) and d.revision is not None and d.revision == d.row.held_revision
    ]
    connection.execute(
        "UPDATE decision.revision r SET content_hash = x.content, mapping_version = x.mapping "
        "FROM unnest(%s::text[], %s::int[], %s::bytea[], %s::int[]) AS x (key, number, content, mapping) "
        "WHERE r.tenant = %s AND r.target = %s AND r.business_key = x.key AND r.revision = x.number "
        "AND r.content_hash <> x.content",
        (
            [m.business_key for m in anew],
            [m.row.held_revision for m in anew],
            [m.content_hash for m in anew],
            [m.mapping.version for m in anew],
            run.id,
            target,
        ),
    )
    # The source says the same as of later: what lies between is older than this now.
    again = [
        (d.identified.business_key, d.revision, d.row.as_of)
        for d in decisions
        if d.reason == "equal_to_latest" and d.identified and d.row.as_of is not None and d.revision is not None
    ]
    connection.execute(
        "UPDATE decision.revision r SET as_of = x.as_of "
        "FROM (SELECT key, number, max(t) FROM unnest(%s::text[], %s::int[], %s::timestamptz[]) AS u (key, number, t) "
        "GROUP BY 1, 2) AS x (key, number, as_of) "
        "WHERE r.tenant = %s AND r.target = %s AND r.business_key = x.key AND r.revision = x.number AND r.as_of < x.as_of",
        (*(list(column) for column in (zip(*again, strict=True) if again else ([], [], []))), run.id, target),
    )


def _review(connection: Connection[Any], run: RunContext, decisions: Sequence[Decision]) -> None:
    """Open a task for each; one that is open already for the same content and reason is kept."""
    standing = {
        (candidate, reason, bytes(content) if content else None)
        for candidate, reason, content in connection.execute(
            "SELECT candidate_id, reason, content_hash FROM review.task "
            "WHERE tenant = %s AND state = 'open' AND candidate_id = ANY(%s)",
            (run.id, [d.row.candidate_id for d in decisions]),
        )
    }
    tasks = [(d, d.mapped.content_hash if d.mapped else None) for d in decisions]
    copy_rows(
        connection,
        "review.task",
        ["tenant", "task_id", "candidate_id", "opened_by", "reason", "content_hash", "evidence"],
        (
            (run.id, new_id(), d.row.candidate_id, "decide", d.reason, content, Jsonb(d.evidence))
            for d, content in tasks
            if (d.row.candidate_id, d.reason, content) not in standing
        ),
    )


def _quarantine(connection: Connection[Any], run: RunContext, decisions: Sequence[Decision]) -> None:
    copy_rows(
        connection,
        "quarantine.item",
        ["tenant", "item_id", "layer", "code", "path", "extract_id", "record_id", "candidate_id", "verdict_id"],
        (
            (run.id, new_id(), "decide", d.reason, d.path, d.row.extract_id, d.row.record_id, d.row.candidate_id, d.verdict_id)
            for d in decisions
        ),
    )
