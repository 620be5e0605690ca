"""A person lets go what was given up for one cause: decide looks at it anew, and it goes through every gate again."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.commit.protocol.transitions import Event, moves
from fhir_writeback_dagster.commit.sqlfile import statement
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.store.db import record_event

RELEASED = "released"


def count_quarantined(connection: Connection[Any], run: RunContext, reason: str) -> int:
    """How many writes of the tenant's target are in quarantine for ``reason``."""
    row = connection.execute(statement("quarantined"), _place(run, reason)).fetchone()
    return int(row[0]) if row else 0


def release(connection: Connection[Any], run: RunContext, reason: str, by: str) -> int:
    """Put every write that is in quarantine for ``reason`` before decide again, in the name of ``by``; returns how many were.

    What is sent in the end is decided anew: under today's consents and policies, and with a look into the chart before it.
    """
    released = connection.execute(statement("release"), _place(run, reason)).fetchall()
    detail = {"reason": RELEASED, "was": reason, "by": by}
    record_event(connection, "intent.withdrawn", [str(intent) for (intent,) in released], [detail] * len(released))
    return len(released)


def _place(run: RunContext, reason: str) -> dict[str, Any]:
    ((before, after),) = moves(Event.RELEASE).items()
    return {
        "tenant": run.id,
        "target": run.tenant.ehr.target,
        "code": reason,
        "before": before,
        "after": after,
        "released": RELEASED,
    }
