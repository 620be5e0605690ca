"""The database for asynchronous code: one thread, one connection, one transaction after the other, and patience with both.

A database that goes away for a minute (a restart, a failover) ends no run: the answers of requests in flight are held, and are
written when it is back. A transaction whose COMMIT had no answer may have happened, and is then done twice. That is harmless
here, because every statement asks what it finds: a step starts from a state and a fence (`move.sql`), a queue is emptied only of
what it holds, a claim that nobody knows of runs out with its lease.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from psycopg import Connection

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.orchestration.run_context import RunContext

PATIENCE_S = 120.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
_AWAY = frozenset({"database_lost", "database_unreachable"})

T = TypeVar("T")


class AsyncDatabase:
    """``async with Database(w) as db: await db.run(work)``; the loop stays free while Postgres works."""

    def __init__(self, run: RunContext, patience_s: float | None = None) -> None:
        self._run, self._patience_s = run, PATIENCE_S if patience_s is None else patience_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit-db")
        self._hurry = threading.Event()
        self._was_away = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown(wait=True)

    def hurry(self) -> None:
        """Somebody waits for the run to end: no patience any more."""
        self._hurry.set()

    async def run(self, work: Callable[[Connection[Any]], T]) -> T:
        """``work`` in one transaction of the tenant; committed when it returns. It may run again: see above.

        :raises ServiceError: the database went away and stayed away; the transaction did not happen, or did and nobody can say.
        :raises LaneHeld: it went away, and when it came back another run was faster to take the lane.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._patiently, work)

    def keep_lane(self) -> None:
        """Make sure that the run's lane is still its own: a server that was restarted has forgotten it.

        :raises LaneHeld: another run has it.
        :raises ServiceError: the database went away.
        """
        if self._run.lane is not None:
            self._run.lane.keep()

    def _patiently(self, work: Callable[[Connection[Any]], T]) -> T:
        end, pause = time.monotonic() + self._patience_s, FIRST_PAUSE_S
        while True:
            try:
                if self._was_away:
                    self.keep_lane()
                    self._was_away = False
                with self._run.store.tenant(self._run.id) as connection:
                    return work(connection)
            except ServiceError as error:
                if error.code not in _AWAY:
                    raise
                self._was_away = True
                if time.monotonic() + pause > end or self._hurry.wait(pause):
                    self._hurry.set()  # whoever comes after this one has waited as long
                    raise
            pause = min(2 * pause, LONGEST_PAUSE_S)
