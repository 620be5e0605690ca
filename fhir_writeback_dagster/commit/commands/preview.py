"""What would be sent: candidates are planned against the EHR as it is now, as the engine plans them, and nothing is sent.

Only reads leave: the chart is searched and linked resources are read, so the plan is the one that a commit run would make.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from fhir_writeback_dagster.commit.adapters.base import ChartFacts, Halt, Plan, WirePlan
from fhir_writeback_dagster.commit.adapters.registry import adapter_for
from fhir_writeback_dagster.commit.engine.chart_lookup import ChartLookup
from fhir_writeback_dagster.commit.engine.reconcile import Reconciler
from fhir_writeback_dagster.commit.fhir_client import open_ehr
from fhir_writeback_dagster.commit.http.transport import NoAnswer
from fhir_writeback_dagster.commit.ledger import intents
from fhir_writeback_dagster.commit.protocol.changes import Settled
from fhir_writeback_dagster.commit.protocol.model import Intent
from fhir_writeback_dagster.commit.protocol.transitions import State
from fhir_writeback_dagster.commit.sqlfile import statement
from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.orchestration.target import read_target
from fhir_writeback_dagster.rules.fhir.content import difference, laid_over
from fhir_writeback_dagster.rules.fhir.resource import Resource


@dataclass(frozen=True, slots=True)
class Preview:
    """What would become of one candidate. ``differs`` are the operations that would make the chart say it, with their values."""

    candidate_id: UUID
    kind: str
    resource_type: str
    action: Literal["create", "update", "nothing", "review", "not_readable"]
    reason: str | None
    plan: WirePlan | None = None
    differs: Sequence[dict[str, Any]] = field(default=())

    def to_json(self, *, values: bool = False) -> dict[str, Any]:
        """Without ``values`` no value of a patient is in it: paths, codes, ids and keyed hashes only."""
        told: dict[str, Any] = {
            "candidate_id": str(self.candidate_id),
            "kind": self.kind,
            "resource_type": self.resource_type,
            "action": self.action,
            "reason": self.reason,
            "differs": [op if values else {"op": op["op"], "path": op["path"]} for op in self.differs],
        }
        if self.plan is not None:
            told["request"] = {
                "method": self.plan.method,
                "path": self.plan.path,
                "precondition": self.plan.precondition,
                "headers": self.plan.headers,
                "bytes": len(self.plan.body),
            } | ({"body": json.loads(self.plan.body)} if values else {})
        return told


def preview(run: RunContext, states: Sequence[str], count: int, kind: str | None = None) -> list[Preview]:
    """Plan the newest ``count`` candidates of ``states`` that are not written yet.

    :raises TargetError: the EHR or its token endpoint refuses or does not answer.
    """
    return asyncio.run(_preview(run, states, count, kind))


async def _preview(run: RunContext, states: Sequence[str], count: int, kind: str | None) -> list[Preview]:
    scope = {
        "tenant": run.id,
        "target": run.tenant.ehr.target,
        "state": State.LEASED,
        "states": list(states),
        "kind": kind,
        "count": count,
    }
    with run.store.tenant(run.id) as connection:
        items = [intents.item_of(run, row) for row in connection.execute(statement("preview"), scope)]
        adapter = adapter_for(read_target(connection, run), run.tenant)
    if not items:
        return []
    async with open_ehr(run) as ehr:
        await ehr.authorize()
        chart = ChartLookup(ehr, run.tenant.identifier_system, adapter.capabilities.vendor)
        look = Reconciler(ehr, chart, adapter, run.tenant.identifier_system)
        at_once = asyncio.Semaphore(run.tenant.ehr.concurrency)

        async def one(item: Intent) -> Preview:
            async with at_once:
                return await _one(look, item)

        return list(await asyncio.gather(*(one(item) for item in items)))


async def _one(look: Reconciler, item: Intent) -> Preview:
    if not item.payload:
        return Preview(item.candidate_id, item.kind, item.resource_type, "not_readable", "payload_gone")
    try:
        facts = await look.facts(item)
    except (TargetError, NoAnswer) as error:
        return Preview(item.candidate_id, item.kind, item.resource_type, "not_readable", error.code)
    return _told(item, look.plan(item, facts), facts)


def _told(item: Intent, plan: Plan, facts: ChartFacts) -> Preview:
    who = (item.candidate_id, item.kind, item.resource_type)
    if isinstance(plan, Settled):
        return Preview(*who, "nothing", plan.reason)
    theirs = facts.current.resource() if facts.current else next(iter(facts.alike), None)
    if isinstance(plan, Halt):
        said = {name: value for name, value in item.payload.items() if name != "identifier"}  # which marks ours
        return Preview(*who, "review", plan.reason, differs=_differs(theirs, said))
    return Preview(*who, plan.verb, None, plan, _differs(theirs, plan.expected))


def _differs(theirs: Resource | None, ours: Resource) -> list[dict[str, Any]]:
    """What would make the chart's resource say ours; nothing where the chart has none."""
    if theirs is None:
        return []
    return [op for op in difference(theirs, laid_over(theirs, ours, None)) if op["op"] != "test"]
