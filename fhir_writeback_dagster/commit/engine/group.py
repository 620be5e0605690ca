"""A group of intents from claim to record: what had no answer is looked up, what may go is planned and sent."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fhir_writeback_dagster.commit.adapters.base import Adapter, Halt, Plan, WirePlan
from fhir_writeback_dagster.commit.engine.chart_lookup import ChartLookup
from fhir_writeback_dagster.commit.engine.conclusions import Conclusions
from fhir_writeback_dagster.commit.engine.gate import SendGate
from fhir_writeback_dagster.commit.engine.reconcile import Reconciler, Unread
from fhir_writeback_dagster.commit.engine.sending import Ready, Sender
from fhir_writeback_dagster.commit.engine.target_health import TargetHealth
from fhir_writeback_dagster.commit.fhir_client import FhirClient
from fhir_writeback_dagster.commit.http.transport import NoAnswer
from fhir_writeback_dagster.commit.ledger.async_database import AsyncDatabase
from fhir_writeback_dagster.commit.limits.rate_windows import RateLimiter
from fhir_writeback_dagster.commit.protocol.changes import Change, Refuse, Review, Stop, at_gate
from fhir_writeback_dagster.commit.protocol.defects import ends_the_run, report_defect
from fhir_writeback_dagster.commit.protocol.error_classes import GATEWAY, GATEWAY_TRIES, exhausted
from fhir_writeback_dagster.commit.protocol.model import Intent
from fhir_writeback_dagster.commit.protocol.transitions import State
from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.orchestration.run_context import RunContext

PATIENTS_A_SEARCH = 20
"""In one look into the charts, where the EHR takes batches; one that does not may not know a list of patients either."""


@dataclass(frozen=True, slots=True)
class RunResources:
    """What one commit run works with."""

    run: RunContext
    db: AsyncDatabase
    client: FhirClient
    limiter: RateLimiter
    adapter: Adapter


class GroupWork:
    """Takes groups of claimed intents through, several at a time; ``counts`` adds up what became of them."""

    def __init__(self, resources: RunResources, gate: SendGate, health: TargetHealth, counts: Counter[str]) -> None:
        run, client, adapter = resources.run, resources.client, resources.adapter
        settings, system = run.tenant.ehr, run.tenant.identifier_system
        self._gate, self._adapter, self._health, self._counts = gate, adapter, health, counts
        self._chart = ChartLookup(client, system, adapter.capabilities.vendor, min(settings.bundle_size, PATIENTS_A_SEARCH))
        self._reconciler = Reconciler(client, self._chart, adapter, system, health)
        self._conclusions = Conclusions(run, adapter, self._reconciler, resources.limiter)
        self._sender = Sender(run, client, gate, resources.limiter, health, self._conclusions)
        self._requests = asyncio.Semaphore(settings.concurrency + (settings.concurrency + 1) // 2)
        self.bundle_size = adapter.capabilities.bundle_size(settings.bundle, settings.bundle_size)

    async def through(self, intents: Sequence[Intent], may_send: Callable[[], bool]) -> None:
        """Take ``intents`` as far as they go now; ``may_send`` is asked before each request, and what may not go is given back.

        :raises ServiceError: the database went away. What was in flight is looked up when its lease has run out.
        """
        try:
            await self._through(intents, may_send)
        except Exception as error:
            if ends_the_run(error):
                raise
            self._count(await self._gate.write([self._conclusions.of_defect(intent, error) for intent in intents]))
        finally:
            self._chart.forget(intent.patient_id for intent in intents)

    async def _through(self, intents: Sequence[Intent], may_send: Callable[[], bool]) -> None:
        await asyncio.gather(*(self._reconcile(intent) for intent in intents if intent.now.state is State.RECONCILING))
        leased = [intent for intent in intents if intent.now.state is State.LEASED]
        self._chart.expect(intent for intent in leased if self._needs_chart(intent))
        plans = list(zip(leased, await asyncio.gather(*map(self._plan, leased)), strict=True))
        halted = [self._conclusions.of_halt(intent, plan) for intent, plan in plans if isinstance(plan, Halt | Unread | Stop)]
        self._count(await self._gate.write(halted))
        ready = [(intent, plan) for intent, plan in plans if not isinstance(plan, Halt | Unread | Stop)]
        for some in self._requests_of(ready):
            async with self._requests:
                if may_send() and not self._gate.mirror_too_old:
                    self._count(await self._sender.send(some))
                else:
                    self._count(await self._gate.write([at_gate(intent, Stop(intent.reason)) for intent, _ in some]))

    def _needs_chart(self, intent: Intent) -> bool:
        try:
            return self._adapter.needs_chart(intent)
        except Exception:  # noqa: BLE001 - it is asked again where the intent is planned, and ends this one there
            return False

    def _requests_of(self, ready: Sequence[Ready]) -> Iterable[list[Ready]]:
        """What needs no sending and what may share a bundle goes together, the rest one by one."""
        shared: dict[int, list[Ready]] = defaultdict(list)
        for intent, plan in ready:
            alone = isinstance(plan, WirePlan) and plan.entry is None
            size = 1 if alone else self._sender.share.get(intent.intent_id, self.bundle_size)
            shared[max(size, 1)].append((intent, plan))
        for size, some in shared.items():
            for start in range(0, len(some), size):
                yield some[start : start + size]

    async def _plan(self, intent: Intent) -> Plan | Unread | Stop:
        """Read of the chart what the adapter needs to know, then ask it."""
        if not intent.payload:
            return Refuse("payload_gone")
        if intent.outcomes.count(GATEWAY.code) >= GATEWAY_TRIES:
            return Refuse(GATEWAY.code)
        if exhausted(intent.outcomes):
            return self._conclusions.given_up(intent)
        try:
            return self._reconciler.plan(intent, await self._reconciler.facts(intent))
        except (TargetError, NoAnswer) as error:
            return self._reconciler.unread(intent, error)
        except Exception as error:
            if ends_the_run(error):
                raise
            return Review("defect", report_defect(error, intent))

    async def _reconcile(self, intent: Intent) -> None:
        """Look whether a write without an answer was applied; what was not is `leased` afterwards, and goes through the gate."""
        async with self._requests:
            try:
                found = await self._reconciler.at(intent)
            except Exception as error:
                if ends_the_run(error):
                    raise
                found = Review("defect", report_defect(error, intent))
        self._count(await self._gate.write([self._conclusions.of_look(intent, found)]))

    def _count(self, changes: Iterable[Change]) -> None:
        for made in changes:
            self._counts["defects"] += made.reason == "defect"
            if made.after.state is State.COMMITTED:
                self._counts[made.outcome or ""] += 1
            elif made.after.state not in (State.LEASED, State.SENDING):
                self._counts[made.after.state.value] += 1
