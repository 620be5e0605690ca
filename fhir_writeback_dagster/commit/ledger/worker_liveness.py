"""Who is at work: a worker holds a lock under its name for as long as its connection to the database lives.

What a dead worker had claimed and not yet sent is then free at once, not when its lease runs out: a lease has to outlast a slow
target, a death need not be waited for. What it may have sent keeps its lease, because the request can be on its way still.

A lock that is gone under a living worker (the connection broke) is taken again when the worker looks around next. What somebody
freed meanwhile has another fence, so that the worker can write no marker for it.
"""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.store import advisory_locks


def register(connection: Connection[Any], run: RunContext, worker: str) -> None:
    """From now on ``worker`` is at work, until its connection ends; whoever has the name already is at work all the same."""
    advisory_locks.try_lock_session(connection, _number(run, worker))


def dead_workers(connection: Connection[Any], run: RunContext) -> list[str]:
    """Workers that hold leases and are not at work any more."""
    found = connection.execute(
        "SELECT DISTINCT worker FROM ledger.work WHERE tenant = %s AND target = %s AND worker IS NOT NULL",
        (run.id, run.tenant.ehr.target),
    )
    numbers = {worker: _number(run, worker) for (worker,) in found}
    alive = advisory_locks.held(connection, list(numbers.values()))
    return [worker for worker, number in numbers.items() if number not in alive]


def _number(run: RunContext, worker: str) -> int:
    return advisory_locks.number_of("worker", run.id, worker)
