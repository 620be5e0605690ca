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
from functools import partial
from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.commit.adapters.registry import adapter_for
from fhir_writeback_dagster.commit.engine.gate import SendGate
from fhir_writeback_dagster.commit.engine.group import RunResources
from fhir_writeback_dagster.commit.engine.recheck import Recheck
from fhir_writeback_dagster.commit.engine.run_loop import LINGER_S, Engine
from fhir_writeback_dagster.commit.fhir_client import FhirClient, open_ehr
from fhir_writeback_dagster.commit.ledger import intents
from fhir_writeback_dagster.commit.ledger.async_database import AsyncDatabase
from fhir_writeback_dagster.commit.limits import holds
from fhir_writeback_dagster.commit.limits.holds import Hold
from fhir_writeback_dagster.commit.limits.rate_windows import RateLimiter
from fhir_writeback_dagster.commit.mirror.refresh import refresh_with
from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.orchestration.target import read_target

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
    held: str = ""
    """What holds the target back now: paused, cap, blackout, throttled or down."""
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
            "held": self.held or "no",
            "stopped": str(self.stopped).lower(),
        }


def commit(run: RunContext, deadline_s: float = 60) -> CommitReport:
    """Send what decide approved, look up what had no answer, and record what became of it.

    On SIGTERM or SIGINT the requests in flight are finished and recorded, the rest is given back, and the signal is raised
    again for whoever waits for it.

    :raises TargetError: the EHR or its token endpoint refuses or does not answer at the start; nothing was written.
    :raises ConfigError: the client's key, a policy or the tenant's file is missing or wrong; nothing was written.
    :raises ServiceError: the database went away; what may have been sent is looked up by a later run.
    :raises LaneHeld: it went away, and another run took the lane meanwhile.
    """
    report, signals = asyncio.run(_commit(run, deadline_s))
    for number in signals:
        signal.raise_signal(number)
    return report


async def _commit(run: RunContext, deadline_s: float) -> tuple[CommitReport, list[int]]:
    began = time.monotonic()
    with run.store.tenant(run.id) as connection:
        if not intents.has_work(connection, run):
            return CommitReport(), []
    recheck = Recheck(run)
    async with AsyncDatabase(run) as db:
        hold, pace = await _check_hold(run, db), RateLimiter(run, db)
        if hold.reason:
            left = await db.run(partial(intents.waiting, run=run))
            return CommitReport(waiting=left, seconds=time.monotonic() - began, held=hold.reason), []
        async with open_ehr(run, pace) as ehr:
            await _authenticate(run, db, ehr, hold)
            if not await db.run(recheck.mirror_is_young):
                await refresh_with(run, db, ehr)
            lease_s = run.tenant.ehr.timeout.total_seconds() + LEASE_MARGIN_S
            gate = SendGate(run, db, recheck, lease_s, await db.run(partial(holds.cap, run=run)))
            adapter = adapter_for(await db.run(partial(read_target, run=run)), run.tenant)
            engine = Engine(RunResources(run, db, ehr, pace, adapter), gate, f"{run.run_id}/{os.getpid()}")
            with _stopping(engine.stop) as signals:
                await engine.run(began + deadline_s)
            trouble = engine.trouble
            left, held = await db.run(partial(_finish, run=run, trouble=trouble is not None, throttled_s=pace.held_s))
        report = CommitReport(
            counts={name: count for name, count in engine.counts.items() if count},
            waiting=left,
            requests=ehr.requests,
            seconds=time.monotonic() - began,
            trouble=trouble.code if trouble else "",
            held=held or "",
            stopped=bool(signals),
        )
    return report, list(dict.fromkeys(signals))


async def _check_hold(run: RunContext, db: AsyncDatabase) -> Hold:
    """What holds the target back, after what holds it only for a moment."""
    hold = await db.run(partial(holds.standing, run=run))
    if hold.reason and 0 < hold.seconds <= LINGER_S:
        await asyncio.sleep(hold.seconds)
        hold = await db.run(partial(holds.standing, run=run))
    return hold


async def _authenticate(run: RunContext, db: AsyncDatabase, ehr: FhirClient, hold: Hold) -> None:
    """Have a token; and where the last run found the target down, one read before anything is risked (a half-open circuit).

    :raises TargetError: it is down, or refuses us, still; the next run waits longer.
    """
    try:
        await ehr.authorize()
        if hold.failures:
            await ehr.capability()
    except TargetError:
        await db.run(partial(_finish, run=run, trouble=True, throttled_s=ehr.http.pace.held_s if ehr.http.pace else 0.0))
        raise
    if hold.failures:
        await db.run(partial(holds.found_up, run=run))


def _finish(
    connection: Connection[Any], run: RunContext, *, trouble: bool, throttled_s: float
) -> tuple[dict[str, int], str | None]:
    """What is left in the queue, and what holds the target back from now on."""
    if trouble:
        holds.found_down(connection, run)
    if throttled_s:
        holds.hold(connection, run, "throttled", throttled_s)
    return intents.waiting(connection, run), holds.standing(connection, run).reason


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
