"""The loop of a commit run: claim, prepare, ship, until nothing is due or the time is over.

While some requests are in flight others are claimed and prepared. Work is taken patient by patient: a group of patients goes
through together, and a patient's own writes never overlap.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.commit.adapters.base import Adapter, Halt, Plan, Settled, WirePlan
from fhir_writeback_dagster.commit.engine.chart_lookup import ChartLookup
from fhir_writeback_dagster.commit.engine.gate import SendGate
from fhir_writeback_dagster.commit.engine.reconcile import Reconciler, ReconcileResult
from fhir_writeback_dagster.commit.engine.sending import DEFECTS, Sender, tell_defect
from fhir_writeback_dagster.commit.fhir_client import FhirClient
from fhir_writeback_dagster.commit.http.transport import NO_TURN, NoAnswer
from fhir_writeback_dagster.commit.ledger import intents, worker_liveness
from fhir_writeback_dagster.commit.ledger.async_database import AsyncDatabase
from fhir_writeback_dagster.commit.limits import holds
from fhir_writeback_dagster.commit.limits.backoff import backoff
from fhir_writeback_dagster.commit.limits.rate_windows import RateLimiter
from fhir_writeback_dagster.commit.mirror.refresh import refresh_with
from fhir_writeback_dagster.commit.protocol.error_classes import exhausted
from fhir_writeback_dagster.commit.protocol.model import Change, Intent, change
from fhir_writeback_dagster.commit.protocol.transitions import Event, State
from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.target.effective_limits import quiet_of

ACCEPT_AT_ONCE = 5000
A_PATIENTS_TURN = 8
"""Of one patient as many are taken at once, though each goes by itself: they share one look into the chart."""
TAKE_IN_S, CLAIM_AGAIN_S = 1.0, 0.2
CLAIM_FOR_S = 15.0
"""Of a slow target no more is claimed than it takes in so many seconds, or leases would run out while turns are waited for."""
PATIENTS_A_SEARCH = 20
"""In one look into the charts, where the EHR takes batches; one that does not may not know a list of patients either."""
FIRST_POLL = timedelta(seconds=1)
FIRST_PAUSE = 3
"""What could not even be planned is not tried again at once (`backoff` of so many tries)."""
LINGER_S = 5.0
"""A run that has nothing to do waits so long for what is due soon, rather than ending for a new one to be started."""


class Engine:
    """One run. ``stop()`` ends it early: what is in flight is finished, what is not sent is given back."""

    def __init__(
        self,
        run: RunContext,
        db: AsyncDatabase,
        ehr: FhirClient,
        pace: RateLimiter,
        gate: SendGate,
        adapter: Adapter,
        worker: str,
    ) -> None:
        self._run, self._db, self._ehr, self._pace, self._gate, self._adapter = run, db, ehr, pace, gate, adapter
        self._chart = ChartLookup(ehr, run.tenant.identifier_system, min(run.tenant.ehr.bundle_size, PATIENTS_A_SEARCH))
        self._look = Reconciler(ehr, self._chart, adapter, run.tenant.identifier_system)
        self.shipping = Sender(run, ehr, gate, adapter, self._look, pace)
        self._worker = worker
        settings = run.tenant.ehr
        self._bundle_size = adapter.capabilities.bundle_size(settings.bundle, settings.bundle_size)
        self._shipments = asyncio.Semaphore(settings.concurrency + (settings.concurrency + 1) // 2)
        most = max(int(pace.requests_in(CLAIM_FOR_S) * settings.bundle_size), 1) if pace.requests_in(1) < math.inf else 2000
        self._share = max(settings.bundle_size, A_PATIENTS_TURN)
        self._claim_size = min(2 * settings.concurrency * self._share, most, 2000)
        self._claim_lease_s = 2 * settings.timeout.total_seconds() + 60
        self._claim_again_at = self._take_in_at = self._idle_since = 0.0
        self._stopped = asyncio.Event()
        self.counts: Counter[str] = Counter()

    def stop(self) -> None:
        self._stopped.set()
        self._pace.stop()
        self._db.hurry()

    async def run(self, deadline: float) -> None:
        """Work until ``deadline`` (on `time.monotonic`'s scale) or until nothing is due.

        :raises ServiceError: the database went away. What was in flight is looked up when its lease has run out.
        :raises LaneHeld: another run took the lane while the database was away; the same holds.
        """
        groups: dict[asyncio.Task[None], int] = {}
        await self._db.run(partial(worker_liveness.register, run=self._run, worker=self._worker))
        try:
            while self._goes_on(deadline):
                if self._gate.mirror_too_old and not groups:
                    await refresh_with(self._run, self._db, self._ehr)
                    self._gate.mirror_too_old = False
                for group in self._groups(await self._claim(sum(groups.values()))):
                    groups[asyncio.create_task(self._group(group, deadline))] = len(group)
                if groups:
                    done, _ = await asyncio.wait(groups, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        del groups[task]
                        task.result()
                elif not await self._wait_for_due(deadline):
                    break
        finally:
            self._pace.stop()
            if groups:
                await asyncio.wait(groups)
        for task in groups:
            task.result()

    def _goes_on(self, deadline: float) -> bool:
        told = self._stopped.is_set() or self._gate.held or self._pace.held_s > LINGER_S or holds.in_blackout(self._run)
        return time.monotonic() < deadline and not told and self.shipping.trouble is None

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
            if group and len(group) + len(theirs) > self._bundle_size:
                yield group
                group = []
            group = [*group, *theirs]
        if group:
            yield group

    async def _group(self, items: list[Intent], deadline: float) -> None:
        await asyncio.gather(*(self._reconcile(item) for item in items if item.now.state is State.RECONCILING))
        leased = [item for item in items if item.now.state is State.LEASED]
        self._chart.expect(item for item in leased if self._adapter.needs_chart(item))
        plans = await asyncio.gather(*(self._plan(item) for item in leased))
        halted = [_halt(item, plan) for item, plan in zip(leased, plans, strict=True) if isinstance(plan, Halt)]
        self._count(await self._gate.write(halted))
        ready = [(item, plan) for item, plan in zip(leased, plans, strict=True) if not isinstance(plan, Halt)]
        for shipment in self._shipments_of(ready):
            async with self._shipments:
                if self._goes_on(deadline) and not self._gate.mirror_too_old:
                    self._count(await self.shipping.ship([plan for _, plan in shipment], [item for item, _ in shipment]))
                else:
                    self._count(await self._gate.write([change(item, Event.STOP, reason=item.reason) for item, _ in shipment]))
        self._chart.forget(item.patient_id for item in items)

    def _shipments_of(
        self, ready: Sequence[tuple[Intent, Settled | WirePlan]]
    ) -> Iterable[list[tuple[Intent, Settled | WirePlan]]]:
        """What needs no sending and what may share a bundle goes together, the rest one by one."""
        shared: dict[int, list[tuple[Intent, Settled | WirePlan]]] = defaultdict(list)
        for item, plan in ready:
            alone = isinstance(plan, WirePlan) and plan.entry is None
            size = 1 if alone else self.shipping.share.get(item.intent_id, self._bundle_size)
            shared[max(size, 1)].append((item, plan))
        for size, some in shared.items():
            for start in range(0, len(some), size):
                yield some[start : start + size]

    async def _plan(self, item: Intent) -> Plan:
        """Read of the chart what the adapter needs to know, then ask it."""
        if not item.payload:
            return Halt(Event.REFUSE, "payload_gone")
        if exhausted(item.outcomes):
            return Halt(Event.REVIEW, "retries_exhausted", {"last": item.reason, "sends": item.sends})
        try:
            return self._adapter.plan(item, await self._look.facts(item))
        except (TargetError, NoAnswer) as error:
            if error.code in NO_TURN:
                return Halt(Event.STOP, item.reason or error.code)
            self.shipping.unreadable(error)
            return Halt(Event.RETRY, error.code)
        except DEFECTS as error:
            return Halt(Event.REFUSE, self._defect(error, item))

    def _defect(self, error: Exception, item: Intent) -> str:
        """One item met a defect of ours, or a resource that nobody thought of: the others go on. Its code."""
        self.counts["defects"] += 1
        return tell_defect(error, item)

    async def _reconcile(self, item: Intent) -> None:
        """Look whether a write without an answer was applied; what was not is `leased` afterwards, and goes through the gate."""
        async with self._shipments:
            try:
                finding = await self.shipping.looked(item)
            except DEFECTS as error:
                finding = ReconcileResult(Event.REVIEW, self._defect(error, item))
        wait = quiet_of(self._run.tenant.ehr).total_seconds()
        if finding.event is Event.ABSENT and item.now.accepted:
            finding, wait = self._mediated(item, finding)
        elif finding.event is Event.LOSE and self._since_sent(item) > self._run.tenant.ehr.pending_ttl:
            finding = ReconcileResult(Event.REVIEW, "look_refused_too_long", evidence={"last": finding.reason})
        step = change(
            item,
            finding.event,
            reason=item.reason if finding.event is Event.ABSENT else finding.reason,
            outcome=finding.outcome,
            standing=finding.standing,
            evidence=finding.evidence,
            link_state=finding.link_state,
            wait_s=wait,
        )
        self._count(await self._gate.write([step]))

    def _mediated(self, item: Intent, absent: ReconcileResult) -> tuple[ReconcileResult, float]:
        """The target took it (202) and has not decided yet: when to ask again, ever more rarely, and when a person asks."""
        settings, since = self._run.tenant.ehr, self._since_sent(item)
        if since > settings.pending_ttl:
            return ReconcileResult(Event.REVIEW, "pending_too_long"), 0.0
        return absent, min(max(since, FIRST_POLL), settings.mirror_every).total_seconds()

    def _since_sent(self, item: Intent) -> timedelta:
        return self._run.now() - item.sent_at if item.sent_at else timedelta()

    def _count(self, changes: Iterable[Change]) -> None:
        for made in changes:
            if made.after.state is State.COMMITTED:
                self.counts[made.outcome or ""] += 1
            elif made.after.state not in (State.LEASED, State.SENDING):
                self.counts[made.after.state.value] += 1


def _halt(item: Intent, plan: Halt) -> Change | None:
    return change(
        item,
        plan.event,
        reason=plan.reason,
        evidence=plan.evidence,
        link_state=plan.link_state,
        wait_s=backoff(max(item.sends, FIRST_PAUSE)),
    )
