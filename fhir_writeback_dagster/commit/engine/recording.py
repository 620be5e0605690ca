"""Writing steps of the protocol with all that goes with them, many intents a transaction.

`move.sql` is the guard: it changes only what is still held under the step's fence and in the state that the step starts from,
and what else is written (attempt, link, task, quarantine, decide's queue, audit event) goes only with what it changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from fhir_writeback_dagster.commit.adapters.three_way_merge import left_by_us
from fhir_writeback_dagster.commit.protocol.changes import Change
from fhir_writeback_dagster.commit.protocol.model import Claim, Standing
from fhir_writeback_dagster.commit.protocol.transitions import Action, State
from fhir_writeback_dagster.commit.sqlfile import statement
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.store.db import record_event


def record(connection: Connection[Any], run: RunContext, changes: Sequence[Change], lease_s: float) -> list[Change]:
    """Write ``changes``. Returns those that were made; the intents of the others are held under another fence by now.

    An intent that is in hand twice, under two fences, moves by the step of the claim that the ledger knows, and of one claim's
    steps the first is made. The items of those that were moved stand in their new state afterwards, provided that the
    transaction commits.

    :param lease_s: seconds of the lease that a step with the LEASE action begins anew.
    """
    firsts = list({c.intent.claim: c for c in reversed(changes)}.values())
    moved = _move(connection, run, firsts, lease_s)
    done = [c for c in reversed(firsts) if c.intent.claim in moved]
    _attempts(connection, run, [c for c in done if Action.TRANSMIT in c.actions])
    _answers(connection, run, [c for c in done if c.attempt and Action.TRANSMIT not in c.actions])
    _links(connection, run, [c for c in done if c.standing or c.undone])
    _reviews(connection, run, [c for c in done if Action.OPEN_REVIEW in c.actions])
    _quarantine(connection, run, [c for c in done if Action.OPEN_QUARANTINE in c.actions])
    _return(connection, run, [c for c in done if Action.RETURN in c.actions])
    by_state: dict[State, list[Change]] = defaultdict(list)
    for one in done:
        by_state[one.after.state].append(one)
    for state in sorted(by_state):
        told = by_state[state]
        record_event(connection, f"intent.{state}", [str(c.intent.intent_id) for c in told], [_detail(c) for c in told])
    return done


def _move(connection: Connection[Any], run: RunContext, changes: Sequence[Change], lease_s: float) -> set[Claim]:
    """The claims whose intents were moved."""
    if not changes:
        return set()
    rows = connection.execute(
        statement("move"),
        {
            "tenant": run.id,
            "intents": [c.intent.intent_id for c in changes],
            "fences": [c.before.fence for c in changes],
            "befores": [c.before.state for c in changes],
            "afters": [c.after.state for c in changes],
            "outcomes": [c.outcome for c in changes],
            "reasons": [c.reason for c in changes],
            "waits": [c.wait_s if Action.WAIT in c.actions else None for c in changes],
            "leases": [lease_s if Action.LEASE in c.actions else None for c in changes],
            "sends": [Action.TRANSMIT in c.actions for c in changes],
            "ended": [Action.LEAVE_QUEUE in c.actions for c in changes],
            "unanswered": [c.after.unanswered for c in changes],
            "accepted": [c.after.accepted for c in changes],
            "reads": [c.reads for c in changes],
        },
    )
    return {(intent, fence) for intent, fence in rows}


def _attempts(connection: Connection[Any], run: RunContext, changes: Sequence[Change]) -> None:
    sent = [(c, c.attempt) for c in changes if c.attempt]
    if sent:
        connection.execute(
            statement("attempts"),
            {
                "tenant": run.id,
                "attempts": [a.attempt_id for _, a in sent],
                "intents": [c.intent.intent_id for c, _ in sent],
                "fences": [c.after.fence for c, _ in sent],
                "verbs": [a.verb for _, a in sent],
                "preconditions": [a.precondition for _, a in sent],
                "requests": [a.request_id for _, a in sent],
            },
        )


def _answers(connection: Connection[Any], run: RunContext, changes: Sequence[Change]) -> None:
    told = [c.attempt for c in changes if c.attempt]
    if told:
        connection.execute(
            statement("answers"),
            {
                "tenant": run.id,
                "attempts": [a.attempt_id for a in told],
                "statuses": [a.status for a in told],
                "outcomes": [a.outcome for a in told],
                "ehr_request_ids": [a.ehr_request_id for a in told],
                "located": [a.located for a in told],
                "answers": [run.sealer.seal("ledger.attempt", a.attempt_id, a.answer) if a.answer else None for a in told],
            },
        )


def _links(connection: Connection[Any], run: RunContext, changes: Sequence[Change]) -> None:
    """What was recognised in the EHR; or, for a link that a person undid there, only its new state."""
    target = run.tenant.ehr.target
    found = [(c, c.standing) for c in changes if c.standing]
    if found:
        connection.execute(
            statement("links"),
            {
                "tenant": run.id,
                "target": target,
                "keys": [c.intent.business_key for c, _ in found],
                "types": [s.resource["resourceType"] for _, s in found],
                "ids": [s.resource["id"] for _, s in found],
                "versions": [s.version_id for _, s in found],
                "etags": [s.etag for _, s in found],
                "origins": [s.origin for _, s in found],
                "sources": [c.intent.source for c, _ in found],
                "revisions": [c.intent.revision for c, _ in found],
                "hashes": [c.intent.content_hash for c, _ in found],
                "bases": [
                    run.sealer.seal_json("ledger.link", f"{target}|{c.intent.business_key}", _base(c, s)) for c, s in found
                ],
                "states": ["active"] * len(found),
                "intents": [c.intent.intent_id for c, _ in found],
            },
        )
    undone = [c for c in changes if c.undone]
    if undone:
        connection.execute(
            "UPDATE ledger.link l SET state = x.state, changed_at = now() "
            "FROM unnest(%s::text[], %s::text[]) AS x (business_key, state) "
            "WHERE l.tenant = %s AND l.target = %s AND l.business_key = x.business_key",
            ([c.intent.business_key for c in undone], [c.undone for c in undone], run.id, target),
        )


def _base(change: Change, standing: Standing) -> Resource:
    link = change.intent.link
    return left_by_us(link.base if link else None, standing.resource, standing.theirs)


def _reviews(connection: Connection[Any], run: RunContext, changes: Sequence[Change]) -> None:
    if changes:
        connection.execute(
            "INSERT INTO review.task (tenant, task_id, candidate_id, intent_id, opened_by, reason, content_hash, evidence) "
            "SELECT %s, t.task_id, t.candidate_id, t.intent_id, 'commit', t.reason, t.content_hash, t.evidence "
            "FROM unnest(%s::uuid[], %s::uuid[], %s::uuid[], %s::text[], %s::bytea[], %s::jsonb[]) "
            "AS t (task_id, candidate_id, intent_id, reason, content_hash, evidence)",
            (
                run.id,
                [new_id() for _ in changes],
                [c.intent.candidate_id for c in changes],
                [c.intent.intent_id for c in changes],
                [c.reason for c in changes],
                [c.intent.content_hash for c in changes],
                [Jsonb({**c.evidence, **_attempt_id(c)}) for c in changes],
            ),
        )


def _quarantine(connection: Connection[Any], run: RunContext, changes: Sequence[Change]) -> None:
    """The ids lead to all five contexts: row and record, payload, verdict, and the sealed answer of the attempt."""
    if changes:
        connection.execute(
            "INSERT INTO quarantine.item (tenant, item_id, layer, code, record_id, candidate_id, verdict_id, intent_id, "
            "attempt_id) SELECT %s, q.item_id, 'commit', q.code, q.record_id, q.candidate_id, q.verdict_id, q.intent_id, "
            "q.attempt_id FROM unnest(%s::uuid[], %s::text[], %s::uuid[], %s::uuid[], %s::uuid[], %s::uuid[], %s::uuid[]) "
            "AS q (item_id, code, record_id, candidate_id, verdict_id, intent_id, attempt_id)",
            (
                run.id,
                [new_id() for _ in changes],
                [c.reason for c in changes],
                [c.intent.record_id for c in changes],
                [c.intent.candidate_id for c in changes],
                [c.intent.verdict_id for c in changes],
                [c.intent.intent_id for c in changes],
                [c.attempt.attempt_id if c.attempt else None for c in changes],
            ),
        )


def _return(connection: Connection[Any], run: RunContext, changes: Sequence[Change]) -> None:
    if changes:
        connection.execute(
            "INSERT INTO ledger.outbox (tenant, candidate_id) SELECT %s, unnest(%s::uuid[]) ON CONFLICT DO NOTHING",
            (run.id, sorted(c.intent.candidate_id for c in changes)),
        )


def _attempt_id(change: Change) -> dict[str, str]:
    return {"attempt": str(change.attempt.attempt_id)} if change.attempt else {}


def _detail(change: Change) -> dict[str, Any]:
    """What the audit log keeps of a step: codes, ids, versions and hashes."""
    detail: dict[str, Any] = {"fence": change.after.fence, "event": change.result.event.name.lower(), **_attempt_id(change)}
    if change.reason:
        detail["reason"] = change.reason
    if change.outcome:
        detail["outcome"] = change.outcome
    if change.attempt and change.attempt.status:
        detail["status"] = change.attempt.status
    if elements := change.evidence.get("elements"):
        detail["elements"] = elements
    if change.standing:
        resource = change.standing.resource
        detail["resource"] = f"{resource['resourceType']}/{resource['id']}"
        detail["version"] = change.standing.version_id
        detail["content"] = change.intent.content_hash.hex()
    return detail
