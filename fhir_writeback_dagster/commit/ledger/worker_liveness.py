"""Who is at work: a worker holds a lock under its name for as long as its connection to the database lives.

What a dead worker had claimed and not yet sent is then free at once, not when its lease runs out: a lease has to outlast a slow
target, a death need not be waited for. What it may have sent keeps its lease, because the request can be on its way still.

A lock that is gone under a living worker (the connection broke, a pooler stands between) does no harm: its fence is raised, so
that it can write no marker for what was taken from it.
"""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.commit.sqlfile import statement
from fhir_writeback_dagster.orchestration.run_context import RunContext

_CLASS = 0x5052
"""Of these locks: a pair of numbers, where those of lanes and patients are one."""


def register(connection: Connection[Any], run: RunContext, worker: str) -> None:
    """From now on ``worker`` is at work, until its connection ends."""
    connection.execute(statement("register_worker"), {"class": _CLASS, "tenant": run.id, "worker": worker})


def dead_workers(connection: Connection[Any], run: RunContext) -> list[str]:
    """Workers that hold leases and are not at work any more."""
    found = connection.execute(statement("dead_workers"), {"class": _CLASS, "tenant": run.id, "target": run.tenant.ehr.target})
    return [worker for (worker,) in found]
