"""The loop of a commit run: claim, prepare, send, until nothing is due or the time is over.

While some requests are in flight others are claimed and prepared. Work is taken patient by patient: a group of patients goes
through together, and a patient's own writes never overlap.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.commit.engine.gate import SendGate
from fhir_writeback_dagster.commit.engine.group import GroupWork, RunResources
from fhir_writeback_dagster.commit.engine.target_health import TargetHealth
from fhir_writeback_dagster.commit.ledger import intents, worker_liveness
from fhir_writeback_dagster.commit.limits import holds
from fhir_writeback_dagster.commit.mirror.refresh import refresh_with
from fhir_writeback_dagster.commit.protocol.model import Intent
from fhir_writeback_dagster.commit.protocol.transitions import State
from fhir_writeback_dagster.errors import TargetError

ACCEPT_AT_ONCE = 5000
A_PATIENTS_TURN = 8
"""Of one patient as many are taken at once, though each goes by itself: they share one look into the chart."""
TAKE_IN_S, CLAIM_AGAIN_S = 1.0, 0.2
CLAIM_FOR_S = 15.0
"""Of a slow target no more is claimed than it takes in so many seconds, or leases would run out while turns are waited for."""
LINGER_S = 5.0
"""A run that has nothing to do waits so long for what is due soon, rather than ending for a new one to be started."""


class Engine:
    """One run. ``stop()`` ends it early: what is in flight is finished, what is not sent is given back."""

    def __init__(self, resources: RunResources, gate: SendGate, worker: str) -> None:
        self._run, self._db, self._limiter = resources.run, resources.db, resources.limiter
        self._client, self._gate, self._worker = resources.client, gate, worker
        settings = self._run.tenant.ehr
        self._health = TargetHealth(settings.base_url, settings.concurrency)
        self.counts: Counter[str] = Counter()
        self._work = GroupWork(resources, gate, self._health, self.counts)
        rate = self._limiter.requests_in(CLAIM_FOR_S)
        most = max(int(rate * settings.bundle_size), 1) if rate < math.inf else 2000
        self._share = max(settings.bundle_size, A_PATIENTS_TURN)
        self._claim_size = min(2 * settings.concurrency * self._share, most, 2000)
        self._claim_lease_s = 2 * settings.timeout.total_seconds() + 60
        self._claim_again_at = self._take_in_at = self._idle_since = 0.0
        self._stopped = asyncio.Event()

    @property
    def trouble(self) -> TargetError | None:
        """Why the target as a whole is out of order; None: it works."""
        return self._health.trouble

    def stop(self) -> None:
        self._stopped.set()
        self._limiter.stop()
        self._db.hurry()

    async def run(self, deadline: float) -> None:
        """Work until ``deadline`` (on `time.monotonic`'s scale) or until nothing is due.

        :raises ServiceError: the database went away. What was in flight is looked up when its lease has run out.
        :raises LaneHeld: another run took the lane while the database was away; the same holds.
        """
        groups: dict[asyncio.Task[None], int] = {}
        try:
            while self._goes_on(deadline):
                if self._gate.mirror_too_old and not groups:
                    await refresh_with(self._run, self._db, self._client)
                    self._gate.mirror_too_old = False
                for group in self._groups(await self._claim(sum(groups.values()))):
                    groups[asyncio.create_task(self._work.through(group, partial(self._goes_on, deadline)))] = len(group)
                if groups:
                    done, _ = await asyncio.wait(groups, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        del groups[task]
                        task.result()
                elif not await self._wait_for_due(deadline):
                    break
        finally:
            self._limiter.stop()
            if groups:
                await asyncio.wait(groups)
        for task in groups:
            task.result()
        self._health.conclude()

    def _goes_on(self, deadline: float) -> bool:
        told = self._stopped.is_set() or self._gate.held or self._limiter.held_s > LINGER_S or holds.in_blackout(self._run)
        return time.monotonic() < deadline and not told and self.trouble is None

    async def _claim(self, in_hand: int) -> list[Intent]:
        """More to do, where less than half of what may be is in hand; not at every turn while there is little."""
        now = time.monotonic()
        if self._gate.mirror_too_old or in_hand > self._claim_size // 2 or (in_hand and now < self._claim_again_at):
            return []
        if now >= self._take_in_at:
            await self._take_in()
            self._take_in_at = time.monotonic() + TAKE_IN_S
        claim = partial(
            intents.claim,
            run=self._run,
            worker=self._worker,
            items=self._claim_size,
            lease_s=self._claim_lease_s,
            share=self._share,
        )
        items = await self._db.run(claim)
        self.counts["claimed"] += len(items)
        self._idle_since = 0.0 if items else self._idle_since
        if len(items) < self._claim_size:
            self._claim_again_at = time.monotonic() + CLAIM_AGAIN_S
        return items

    async def _take_in(self) -> None:
        """See that the lane is still ours, free what dead workers hold, empty decide's queue unless the target is held back."""
        hold, reaped = await self._db.run(self._look_around)
        self.counts["reaped"] += sum(reaped.values())
        if hold.reason:
            self.stop()
        if hold.reason or hold.desired_state == "draining":
            return
        taken = ACCEPT_AT_ONCE
        while taken == ACCEPT_AT_ONCE:
            accepted = await self._db.run(lambda connection: intents.accept(connection, self._run, ACCEPT_AT_ONCE))
            self.counts["accepted"] += accepted.opened + accepted.reopened
            self.counts["discarded"] += accepted.superseded
            taken = accepted.taken

    def _look_around(self, connection: Connection[Any]) -> tuple[holds.Hold, dict[State, int]]:
        self._db.keep_lane()
        # Before looking for dead workers: a connection that was lost took this one's mark of life with it.
        worker_liveness.register(connection, self._run, self._worker)
        # The target before the work, as at the gate: two transactions that lock never wait for each other.
        hold = holds.standing(connection, self._run)
        return hold, intents.reap(connection, self._run, worker_liveness.dead_workers(connection, self._run))

    async def _wait_for_due(self, deadline: float) -> bool:
        """Nothing can be taken. Wait a little for what is due soon, or is due and another worker has its patient in hand."""
        now = time.monotonic()
        self._idle_since = self._idle_since or now
        due = await self._db.run(lambda connection: intents.next_due_s(connection, self._run))
        end = min(deadline, self._idle_since + LINGER_S)
        if due is None or now + due > end:
            return False
        try:
            await asyncio.wait_for(self._stopped.wait(), max(due, CLAIM_AGAIN_S))
        except TimeoutError:
            return True
        return False

    def _groups(self, items: Sequence[Intent]) -> Iterable[list[Intent]]:
        """Whole patients, together up to a bundle's size; a patient with more goes through in several shipments."""
        by_patient: dict[str, list[Intent]] = defaultdict(list)
        for item in items:
            by_patient[item.patient_id].append(item)
        group: list[Intent] = []
        for theirs in by_patient.values():
            if group and len(group) + len(theirs) > self._work.bundle_size:
                yield group
                group = []
            group = [*group, *theirs]
        if group:
            yield group
