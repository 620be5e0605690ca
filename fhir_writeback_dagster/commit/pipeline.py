"""commit's entry point: write what waits of one tenant, for about a minute."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fhir_writeback_dagster.commit import ledger
from fhir_writeback_dagster.commit.adapters.choose import adapter_for
from fhir_writeback_dagster.commit.client import open_ehr
from fhir_writeback_dagster.commit.database import Database
from fhir_writeback_dagster.commit.engine import Engine
from fhir_writeback_dagster.commit.gate import Gate
from fhir_writeback_dagster.commit.mirror import refresh_with
from fhir_writeback_dagster.commit.recheck import Recheck
from fhir_writeback_dagster.store.capability import read_target
from fhir_writeback_dagster.workplace import Workplace

LEASE_MARGIN_S = 10.0
"""How much longer a sent intent is held than its request may take."""


@dataclass(frozen=True, slots=True)
class CommitReport:
    """Counts of one commit run. ``counts``: accepted, claimed, reaped; created, updated, suppressed, reconciled; withdrawn,
    discarded, quarantined, in_review; retry_wait, unknown, pending_target (steps into them, not how many stand there).
    """

    counts: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    """Intents left in the queue, by state."""
    requests: int = 0
    seconds: float = 0.0
    trouble: str = ""
    """Code of what made the run end early: the target did not answer any more, or gave no token."""
    stopped: bool = False

    @property
    def written(self) -> int:
        return sum(self.counts.get(outcome, 0) for outcome in ("created", "updated", "reconciled"))

    def metadata(self) -> dict[str, int | float | str]:
        return {
            **dict(sorted(self.counts.items())),
            **{f"waiting/{state}": count for state, count in sorted(self.waiting.items())},
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
            "trouble": self.trouble or "none",
            "stopped": str(self.stopped).lower(),
        }


def commit(w: Workplace, deadline_s: float = 60) -> CommitReport:
    """Send what decide approved, look up what had no answer, and record what became of it.

    On SIGTERM or SIGINT the requests in flight are finished and recorded, the rest is given back, and the signal is raised
    again for whoever waits for it.

    :raises TargetError: the EHR or its token endpoint refuses or does not answer at the start; nothing was written.
    :raises ConfigError: the client's key, a policy or the tenant's file is missing or wrong; nothing was written.
    :raises ServiceError: the database went away; what may have been sent is looked up by a later run.
    """
    report, signals = asyncio.run(_commit(w, deadline_s))
    for number in signals:
        signal.raise_signal(number)
    return report


async def _commit(w: Workplace, deadline_s: float) -> tuple[CommitReport, list[int]]:
    began = time.monotonic()
    with w.store.tenant(w.id) as connection:
        if not ledger.has_work(connection, w):
            return CommitReport(), []
    recheck = Recheck(w)
    async with Database(w) as db, open_ehr(w) as ehr:
        await ehr.authorize()
        if not await db.run(recheck.mirror_is_young):
            await refresh_with(w, db, ehr)
        gate = Gate(w, db, recheck, w.tenant.ehr.timeout.total_seconds() + LEASE_MARGIN_S)
        adapter = adapter_for(await db.run(lambda connection: read_target(connection, w)), w.tenant)
        engine = Engine(w, db, ehr, gate, adapter, f"{w.run_id}/{os.getpid()}")
        with _stopping(engine.stop) as signals:
            await engine.run(began + deadline_s)
        left = await db.run(lambda connection: ledger.waiting(connection, w))
        report = CommitReport(
            counts={name: count for name, count in engine.counts.items() if count},
            waiting=left,
            requests=ehr.requests,
            seconds=time.monotonic() - began,
            trouble=engine.shipping.trouble.code if engine.shipping.trouble else "",
            stopped=bool(signals),
        )
    return report, list(dict.fromkeys(signals))


@contextmanager
def _stopping(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Within the block SIGTERM and SIGINT call ``stop`` and are noted; afterwards their former handlers stand again."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        came.append(number)
        stop()

    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in former:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield came
    finally:
        for number, handler in former.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
