"""The target's rate windows: so many requests a second or calendar minute, so many points a minute.

What is used of a window stands in the database, because the mirror's run, the commit run and the next commit run share the
target's patience. A process takes it there in portions, so that it costs a statement now and then and not one a request; what
it does not use of a portion is lost with the window, and the limit holds whatever a process does.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from psycopg import Connection

from fhir_writeback_dagster.commit.ledger.async_database import AsyncDatabase
from fhir_writeback_dagster.config.tenants import LimitSettings
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.target.effective_limits import limits_of

CallKind = Literal["write", "search", "read"]

PORTIONS = 8
"""Into so many a window is divided."""


@dataclass(slots=True)
class RateWindow:
    """``limit`` in each ``unit``; ``left`` of the portion in hand is good until ``ends_at`` (`time.monotonic`)."""

    name: str
    unit: Literal["second", "minute"]
    limit: int
    points: Mapping[CallKind, int] | None = None
    left: int = 0
    ends_at: float = 0.0

    def cost(self, kind: CallKind, entries: int) -> int:
        """What a request costs; a dearer one than the whole window has to do with all of it."""
        cost = 1 if self.points is None else self.points.get(kind, 1) * entries
        return min(cost, self.limit)

    def has(self, cost: int) -> bool:
        return self.left >= cost and time.monotonic() < self.ends_at


class RateLimiter:
    """``await pace.turn("write")`` returns when the request may leave; turns come in the order in which they were asked for."""

    def __init__(self, run: RunContext, db: AsyncDatabase) -> None:
        self._run, self._db = run, db
        self._windows = windows(limits_of(run.tenant.ehr))
        self._lock = asyncio.Lock()
        self._until = 0.0
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Nobody waits any more: what would have to gets no turn."""
        self._stopped.set()

    def requests_in(self, seconds: float) -> float:
        """How many requests may leave in so many seconds."""
        rates = (window.limit / (60 if window.unit == "minute" else 1) for window in self._windows if window.points is None)
        return min(rates, default=math.inf) * seconds

    def hold(self, seconds: float) -> None:
        """The target asked to be left alone for so long: nobody's turn comes before."""
        self._until = max(self._until, time.monotonic() + seconds)

    @property
    def held_s(self) -> float:
        """Seconds that the target still wants to be left alone."""
        return max(0.0, self._until - time.monotonic())

    def throttled_s(self) -> float | None:
        """How long to stay away after a 429 that does not say: to the end of the tightest window; None: none is known."""
        ends = [window.ends_at for window in self._windows if window.unit == "minute"] or [run.ends_at for run in self._windows]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    async def turn(self, kind: CallKind, entries: int = 1) -> bool:
        """Wait until a request may leave; ``entries``: how many a bundle has. False: :meth:`stop` came first.

        :raises ServiceError: the database went away.
        """
        if not self._windows and not self.held_s:
            return True
        async with self._lock:
            while wait := await self._wait(kind, entries):
                if self._stopped.is_set():
                    return False
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), wait)
            for window in self._windows:
                window.left -= window.cost(kind, entries)
        return True

    async def _wait(self, kind: CallKind, entries: int) -> float:
        """Seconds until it is worth asking again; 0: every window has what the request costs."""
        if self.held_s:
            return self.held_s
        for window in self._windows:
            cost = window.cost(kind, entries)
            if window.has(cost):
                continue
            portion = max(cost, math.ceil(window.limit / PORTIONS))
            granted, ends_in = await self._db.run(partial(take, run=self._run, window=window, least=cost, portion=portion))
            fresh = time.monotonic() >= window.ends_at
            window.left, window.ends_at = (0 if fresh else window.left) + granted, time.monotonic() + ends_in
            if not window.has(cost):
                return ends_in
        return 0.0


def windows(limits: LimitSettings) -> list[RateWindow]:
    """The windows of these limits."""
    found = [
        limits.per_minute and RateWindow("per_minute", "minute", limits.per_minute),
        limits.points_per_minute and RateWindow("points", "minute", limits.points_per_minute, limits.points),
        limits.per_second and RateWindow("per_second", "second", limits.per_second),
    ]
    return [window for window in found if window]


def take(connection: Connection[Any], run: RunContext, window: RateWindow, least: int, portion: int) -> tuple[int, float]:
    """Take ``portion`` of the window that is open by the database's clock, or what is left of it, or nothing if that is less
    than ``least``. Returns what was taken, and the seconds until the next window.
    """
    place = {"tenant": run.id, "target": run.tenant.ehr.target, "name": window.name, "unit": window.unit}
    connection.execute(
        "INSERT INTO ledger.rate (tenant, target, name, starts_at, used) "
        "VALUES (%(tenant)s, %(target)s, %(name)s, '-infinity', 0) ON CONFLICT DO NOTHING",
        place,
    )
    row = connection.execute(
        "SELECT CASE WHEN starts_at = date_trunc(%(unit)s, clock_timestamp()) THEN used ELSE 0 END FROM ledger.rate "
        "WHERE tenant = %(tenant)s AND target = %(target)s AND name = %(name)s FOR UPDATE",
        place,
    ).fetchone()
    free = window.limit - (row[0] if row else 0)
    granted = min(portion, free) if free >= least else 0
    row = connection.execute(
        "UPDATE ledger.rate r SET used = CASE WHEN r.starts_at = n.starts_at THEN r.used ELSE 0 END + %(granted)s, "
        "starts_at = n.starts_at FROM (SELECT date_trunc(%(unit)s, t) AS starts_at, date_trunc(%(unit)s, t) + "
        "('1 ' || %(unit)s)::interval - t AS rest FROM clock_timestamp() t) n "
        "WHERE r.tenant = %(tenant)s AND r.target = %(target)s AND r.name = %(name)s "
        "RETURNING extract(epoch FROM n.rest)::float8",
        {**place, "granted": granted},
    ).fetchone()
    return granted, max(float(row[0]), 0.001) if row else 1.0
