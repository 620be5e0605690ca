"""The ledger: which writes are wanted, who holds them, what became of them.

Every function runs inside the caller's transaction and works on sets. The states that are written are those of
`commit.protocol`; each change of a state inserts its audit event with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import Connection

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.commit.protocol.error_classes import GATEWAY
from fhir_writeback_dagster.commit.protocol.model import Intent, Link
from fhir_writeback_dagster.commit.protocol.transitions import ENDS, TABLE, Action, Event, IntentState, State, moves
from fhir_writeback_dagster.commit.sqlfile import statement
from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.fhir.resource_url import named
from fhir_writeback_dagster.rules.target.effective_limits import quiet_of
from fhir_writeback_dagster.store.db import Row, record_event

HELD = [state for state in State if any(Action.LEASE in actions for to, actions in TABLE.values() if to is state)]
"""States in which somebody holds a lease; one such intent a patient's others wait for."""
USUAL_PRIORITY = 100
_UNREADABLE = (ServiceError, ValueError, RecursionError)
"""What opening and decoding of a sealed resource can raise: one that is broken must not stop the others."""


@dataclass(frozen=True, slots=True)
class AcceptReport:
    """``taken`` from decide's queue; ``opened`` as new intents, ``reopened``, and older ones ``superseded``."""

    taken: int
    opened: int
    reopened: int
    superseded: int


def accept(connection: Connection[Any], run: RunContext, limit: int) -> AcceptReport:
    """Make intents of the candidates that decide approved, oldest first."""
    taken = [
        candidate
        for (candidate,) in connection.execute(
            "WITH taken AS (DELETE FROM decision.outbox WHERE tenant = %(tenant)s AND candidate_id IN "
            "(SELECT candidate_id FROM decision.outbox WHERE tenant = %(tenant)s ORDER BY since, candidate_id LIMIT %(limit)s) "
            "RETURNING candidate_id, since) SELECT candidate_id FROM taken ORDER BY since, candidate_id",
            {"tenant": run.id, "limit": limit},
        )
    ]
    if not taken:
        return AcceptReport(0, 0, 0, 0)
    made = connection.execute(
        statement("accept"),
        {
            "tenant": run.id,
            "candidates": taken,
            "intents": [new_id() for _ in taken],
            "ready": State.READY,
            "reopens": list(moves(Event.REOPEN)),
            "usual": USUAL_PRIORITY,
            "kinds": list(run.tenant.ehr.limits.priorities),
            "priorities": list(run.tenant.ehr.limits.priorities.values()),
        },
    ).fetchall()
    details = [{"key": key, "revision": revision, "again": again} for _, _, key, revision, again in made]
    record_event(connection, "intent.ready", [str(row[0]) for row in made], details)
    superseded = connection.execute(
        statement("supersede"),
        {
            "tenant": run.id,
            "targets": [row[1] for row in made],
            "keys": [row[2] for row in made],
            "revisions": [row[3] for row in made],
            "states": list(moves(Event.SUPERSEDE)),
            "becomes": State.DISCARDED,
        },
    ).fetchall()
    gone = [str(intent) for (intent,) in superseded]
    record_event(connection, "intent.discarded", gone, [{"reason": "superseded"}] * len(gone))
    again = sum(row[4] for row in made)
    return AcceptReport(len(taken), len(made) - again, again, len(gone))


def reap(connection: Connection[Any], run: RunContext, gone: Sequence[str] = ()) -> dict[State, int]:
    """Free what dead workers hold: what they had not sent is ready again, what they may have sent is unknown.

    :param gone: workers that are known to be dead (`presence.gone`): only what they may have sent keeps its lease.
    """
    expire = moves(Event.EXPIRE)
    freed = connection.execute(
        statement("reap"),
        {
            "tenant": run.id,
            "target": run.tenant.ehr.target,
            "states": list(expire),
            "becomes": list(expire.values()),
            "waits": [Action.WAIT in TABLE[state, Event.EXPIRE][1] for state in expire],
            "unanswered_from": [State.SENDING],
            "gone": list(gone),
            "quiet_s": quiet_of(run.tenant.ehr).total_seconds(),
        },
    ).fetchall()
    by_state: dict[State, list[Row]] = defaultdict(list)
    for row in freed:
        by_state[State(row[2])].append(row)
    for state, rows in by_state.items():
        details = [{"reason": "lease_expired", "was": was, "fence": fence} for _, was, _, fence in rows]
        record_event(connection, f"intent.{state}", [str(row[0]) for row in rows], details)
    return {state: len(rows) for state, rows in by_state.items()}


def claim(  # noqa: PLR0913 - what one statement is given, by name
    connection: Connection[Any], run: RunContext, *, worker: str, items: int, lease_s: float, share: int = 1
) -> list[Intent]:
    """Take up to ``items`` intents whose time has come, of patients none of whose are in flight.

    :param lease_s: seconds until somebody else may take them.
    :param share: so many of one patient at most; a patient's requests go one after the other, those of many side by side.
    """
    becomes = moves(Event.CLAIM)
    common = {
        "tenant": run.id,
        "target": run.tenant.ehr.target,
        "claimable": list(becomes),
        "becomes": list(becomes.values()),
        "held": HELD,
        "ends": sorted(ENDS),
        "items": items,
        "worker": worker,
        "lease_s": lease_s,
        "share": share,
    }
    # Two statements, because the second has to see what another worker committed before the lock was ours.
    patients = [patient for (patient,) in connection.execute(statement("claim_patients"), common)]
    if not patients:
        return []
    rows = connection.execute(statement("claim"), {**common, "patients": patients}).fetchall()
    run.sealer.prepare(connection)  # a month may have begun since the run did
    claimed = [item_of(run, row) for row in rows]
    _recall(connection, run, [item for item in claimed if item.sends])
    for state in sorted({item.now.state for item in claimed}):
        taken = [item for item in claimed if item.now.state is state]
        details = [{"fence": item.now.fence, "worker": worker} for item in taken]
        record_event(connection, f"intent.{state}", [str(item.intent_id) for item in taken], details)
    return claimed


def _recall(connection: Connection[Any], run: RunContext, sent: Sequence[Intent]) -> None:
    """What became of their attempts so far. What a gateway answered before a person released them counts no more."""
    found = connection.execute(
        "SELECT a.intent_id, array_agg(a.outcome) FILTER (WHERE a.outcome IS DISTINCT FROM %s OR a.sent_at >= w.created_at), "
        "array_agg(a.located) FILTER (WHERE a.located IS NOT NULL) FROM ledger.attempt a "
        "JOIN ledger.work w ON w.tenant = a.tenant AND w.intent_id = a.intent_id "
        "WHERE a.tenant = %s AND a.intent_id = ANY (%s::uuid[]) GROUP BY 1",
        (GATEWAY.code, run.id, [item.intent_id for item in sent]),
    )
    attempts = {intent: (outcomes, located) for intent, outcomes, located in found} if sent else {}
    for item in sent:
        outcomes, located = attempts.get(item.intent_id, ((), ()))
        item.outcomes = tuple(outcomes or ())
        item.located = tuple(place for one in located or () if (place := named(one)))


def next_due_s(connection: Connection[Any], run: RunContext) -> float | None:
    """Seconds until the next intent that nobody holds may be claimed; None: there is none."""
    row = connection.execute(
        "SELECT extract(epoch FROM min(not_before) - clock_timestamp())::float8 FROM ledger.work "
        "WHERE tenant = %s AND target = %s AND state = ANY (%s::text[])",
        (run.id, run.tenant.ehr.target, list(moves(Event.CLAIM))),
    ).fetchone()
    return None if row is None or row[0] is None else max(0.0, float(row[0]))


def item_of(run: RunContext, row: Row) -> Intent:
    """An intent as `claim.sql` tells of it."""
    intent, state, fence, unanswered, accepted, key, revision, candidate, verdict, record, source, kind, resource_type = row[:13]
    patient, encounter, content_hash, reason, sends, sent_at, refused_since, payload, must_keep = row[13:22]
    return Intent(
        intent_id=intent,
        now=IntentState(State(state), fence, unanswered, accepted),
        business_key=key,
        revision=revision,
        candidate_id=candidate,
        verdict_id=verdict,
        record_id=record,
        source=source,
        kind=kind,
        resource_type=resource_type,
        patient_id=patient,
        encounter_id=encounter,
        content_hash=bytes(content_hash),
        reason=reason,
        sends=sends,
        sent_at=sent_at,
        payload=_payload(run, candidate, payload),
        refused_since=refused_since,
        must_keep=None if must_keep is None else frozenset(must_keep),
        link=_link(run, key, row[22:]),
    )


def _link(run: RunContext, key: str, row: Row) -> Link | None:
    resource_type, resource_id, version, etag, origin, owner, revision, content_hash, state, base, candidate, previous = row
    if resource_type is None:
        return None
    place = f"{run.tenant.ehr.target}|{key}"
    return Link(
        resource_type=resource_type,
        resource_id=resource_id,
        version_id=version,
        etag=etag,
        origin=origin,
        owner_source=owner,
        revision=revision,
        content_hash=bytes(content_hash),
        state=state,
        base=_base(run, place, base) if base is not None else None,
        previous=(_payload(run, candidate, previous) or None) if previous is not None else None,
    )


def _payload(run: RunContext, candidate: UUID, sealed: bytes) -> dict[str, Any]:
    try:
        payload: dict[str, Any] = canonicaljson.decode(run.sealer.open("decision.candidate.payload", candidate, sealed))
    except _UNREADABLE:
        return {}
    return payload


def _base(run: RunContext, place: str, sealed: bytes) -> dict[str, Any] | None:
    try:
        base: dict[str, Any] = run.sealer.open_json("ledger.link", place, sealed)
    except _UNREADABLE:
        return None
    return base


def waiting(connection: Connection[Any], run: RunContext) -> dict[str, int]:
    """How many intents stand in the queue, by state."""
    found = connection.execute(
        "SELECT state, count(*) FROM ledger.work WHERE tenant = %s AND target = %s GROUP BY state",
        (run.id, run.tenant.ehr.target),
    )
    return dict(found.fetchall())


def has_work(connection: Connection[Any], run: RunContext) -> bool:
    """Is anything in decide's queue or in our own?"""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM decision.outbox WHERE tenant = %s) OR EXISTS (SELECT FROM ledger.work WHERE tenant = %s)",
        (run.id, run.id),
    ).fetchone()
    return row == (True,)
