"""Which credential a target was last reached with, and what it was granted: a change of either is an audit event."""

from __future__ import annotations

import asyncio
from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.commit.auth.tokens import Granted, OnGranted
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.store.db import Store, record_event


def teller(run: RunContext) -> OnGranted:
    """:func:`note` for asynchronous code."""

    async def told(granted: Granted) -> None:
        await asyncio.to_thread(note, run, granted)

    return told


def note(run: RunContext, granted: Granted) -> None:
    """Keep what a token was had with: ``credential.rotated`` once for each new key or secret, ``credential.too_broad`` once for
    each set of scopes that allows more than the tenant needs. Of the credential only a keyed hash is kept.

    On a connection of its own: tokens are had while the run's is at work.
    """
    with Store(run.settings.dsn, run.settings.layer) as store, store.tenant(run.id) as connection:
        _note(connection, run, granted)


def _note(connection: Connection[Any], run: RunContext, granted: Granted) -> None:
    target = run.tenant.ehr.target
    fingerprint = run.identity.digest("credential", target, granted.credential)
    before = connection.execute(
        "SELECT fingerprint, broader FROM ledger.credential WHERE tenant = %s AND target = %s FOR UPDATE", (run.id, target)
    ).fetchone()
    connection.execute(
        "INSERT INTO ledger.credential (tenant, target, fingerprint, granted, broader) VALUES (%s, %s, %s, %s, %s) "
        "ON CONFLICT (tenant, target) DO UPDATE SET fingerprint = excluded.fingerprint, granted = excluded.granted, "
        "broader = excluded.broader, seen_at = now(), "
        "since = CASE WHEN credential.fingerprint = excluded.fingerprint THEN credential.since ELSE now() END",
        (run.id, target, fingerprint, list(granted.scopes), list(granted.broader)),
    )
    if before is not None and bytes(before[0]) != fingerprint:
        record_event(connection, "credential.rotated", [target], [{"fingerprint": fingerprint.hex()[:16]}])
    if granted.broader and (before is None or tuple(before[1]) != granted.broader):
        record_event(connection, "credential.too_broad", [target], [{"scopes": list(granted.broader)}])


def approved_endpoint(connection: Connection[Any], run: RunContext) -> str | None:
    """The token endpoint that the EHR named when it was approved, empty where it named none; None: it never was."""
    row = connection.execute(
        "SELECT coalesce(body #>> '{smart,token_endpoint}', '') FROM ledger.snapshot WHERE tenant = %s AND target = %s",
        (run.id, run.tenant.ehr.target),
    ).fetchone()
    return row[0] if row else None


def warnings(connection: Connection[Any], run: RunContext) -> list[str]:
    """What an operator should fix about the credential, as sentences without a secret."""
    row = connection.execute(
        "SELECT broader FROM ledger.credential WHERE tenant = %s AND target = %s", (run.id, run.tenant.ehr.target)
    ).fetchone()
    return [f"granted more than anything here needs: {', '.join(row[0])}"] if row and row[0] else []
