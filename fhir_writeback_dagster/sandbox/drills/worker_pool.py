"""Commit workers as processes of the operating system: hired, killed with SIGKILL, replaced, and told to end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from fhir_writeback_dagster.config.settings import DSN
from fhir_writeback_dagster.ops.process import Child, Program

WORKER = [sys.executable, "-m", "fhir_writeback_dagster.sandbox.drills.worker"]


class WorkerPool:
    """The workers of one tenant. ``log`` takes what they say."""

    def __init__(self, home: Path, tenant: str, dsn: str, log: Path) -> None:
        self._program = Program(
            "a commit worker",
            [*WORKER, str(home), tenant],
            {"PATH": os.environ.get("PATH", ""), DSN: dsn, "PYTHONUNBUFFERED": "1"},
            log,
            home,
            grace_s=60,
        )
        self._workers: list[Child] = []

    def hire(self, workers: int) -> None:
        self._workers += [Child(self._program) for _ in range(workers)]

    def tend(self) -> None:
        """Replace those that are dead, as the daemon starts a new run."""
        for place, worker in enumerate(self._workers):
            if worker.exit_code is not None:
                self._workers[place] = Child(self._program)

    def kill(self) -> None:
        """SIGKILL to the one that is the longest at work."""
        worker = self._workers.pop(0)
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait(10)
        self._workers.append(Child(self._program))

    def dismiss(self) -> None:
        """SIGTERM: they finish what is in flight, give back the rest, and are gone when this returns."""
        for worker in self._workers:
            worker.ask_to_stop()
        for worker in self._workers:
            worker.stop()
        self._workers.clear()
