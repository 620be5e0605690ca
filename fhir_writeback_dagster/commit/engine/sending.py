"""Plans through the gate and over the wire: one request, or one bundle of them, and an answer to each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from fhir_writeback_dagster.commit.adapters.base import WirePlan
from fhir_writeback_dagster.commit.engine import bundles
from fhir_writeback_dagster.commit.engine.conclusions import BUNDLE_REFUSED, DEFECT, ODD, Conclusions, Sent
from fhir_writeback_dagster.commit.engine.gate import SendGate, Want
from fhir_writeback_dagster.commit.engine.target_health import TargetHealth
from fhir_writeback_dagster.commit.fhir_client import FHIR_JSON, FhirClient
from fhir_writeback_dagster.commit.http.request import Request
from fhir_writeback_dagster.commit.http.transport import HELD, NoAnswer
from fhir_writeback_dagster.commit.limits.rate_windows import RateLimiter
from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.commit.protocol.changes import Change, Passed, Settled, Stop, at_gate
from fhir_writeback_dagster.commit.protocol.defects import ends_the_run, report_defect
from fhir_writeback_dagster.commit.protocol.error_classes import (
    GATEWAY,
    ErrorClass,
    Recovery,
    RequestKind,
    classify,
    is_gateways,
    unanswered_outcome,
)
from fhir_writeback_dagster.commit.protocol.model import Attempt, Intent
from fhir_writeback_dagster.commit.protocol.transitions import Action, Event
from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.orchestration.run_context import RunContext

_OUT_OF_ORDER = {401: "token_refused", 403: "forbidden", 502: "no_answer", 503: "unavailable", 504: "no_answer"}

Ready = tuple[Intent, WirePlan | Settled]
"""An intent and what its adapter planned: a request, or nothing to be sent."""


@dataclass(slots=True)
class Sender:
    """Sends what the gate lets through, and records what came of it."""

    run: RunContext
    client: FhirClient
    gate: SendGate
    limiter: RateLimiter
    health: TargetHealth
    conclusions: Conclusions
    share: dict[UUID, int] = field(default_factory=dict)
    """Intents whose bundle was refused as a whole: with how many others at most they may go, until the one at fault is alone."""

    async def send(self, ready: Sequence[Ready]) -> list[Change]:
        """Take ``ready`` through the gate, send those that may go (in one request where there are several), and record what came
        of it. Returns every step that was made.
        """
        writes = sum(isinstance(plan, WirePlan) for _, plan in ready)
        if writes and not await self.limiter.turn("write", writes):
            return await self.gate.write([at_gate(intent, Stop(intent.reason)) for intent, _ in ready])
        together = "" if len(ready) == 1 else str(new_id())
        requests = [
            Sent(intent, plan, Attempt(new_id(), plan.verb, plan.precondition, together or str(intent.record_id)))
            for intent, plan in ready
            if isinstance(plan, WirePlan)
        ]
        wants = [Want(intent, plan) for intent, plan in ready if isinstance(plan, Settled)]
        wants += [Want(request.intent, Passed(request.attempt)) for request in requests]
        # Before the gate: the lease that it writes then outlasts the request by the gate's own margin.
        deadline = time.monotonic() + self.run.tenant.ehr.timeout.total_seconds()
        passed = await self.gate.pass_on(wants)
        marked = {c.intent.intent_id for c in passed if Action.TRANSMIT in c.actions}
        going = [request for request in requests if request.intent.intent_id in marked]
        if not going:
            return passed
        answers = await (self._alone(going[0], deadline) if len(going) == 1 else self._together(going, together, deadline))
        changes = await asyncio.gather(*map(self.conclusions.of_answer, going, answers))
        return [*passed, *await self.gate.write(changes)]

    async def _alone(self, sent: Sent, deadline: float) -> list[Answer | ErrorClass]:
        plan = sent.plan
        headers = {**plan.headers, "X-Request-Id": str(sent.intent.record_id)}
        request = Request(plan.method, plan.path, headers, plan.body, "write", deadline, had_turn=True)
        return [await self._exchange(request, plan.request)]

    async def _together(self, going: Sequence[Sent], request_id: str, deadline: float) -> list[Answer | ErrorClass]:
        kind = self.run.tenant.ehr.bundle
        plans = [sent.plan for sent in going]
        headers = {"Content-Type": FHIR_JSON, "Prefer": "return=representation", "X-Request-Id": request_id}
        request = Request("POST", "", headers, bundles.pack(kind, plans), "write", deadline, len(plans), had_turn=True)
        whole = await self._exchange(request, plans[0].request)
        if isinstance(whole, ErrorClass):
            return [whole] * len(going)
        outcome = classify("create", whole)
        if outcome.recovery is Recovery.CONFIRM:
            return await self._assigned(going, plans, whole)
        if outcome.event in (Event.REFUSE, Event.REVIEW):
            self.share.update((sent.intent.intent_id, len(going) // 2) for sent in going)
            return [BUNDLE_REFUSED] * len(going)
        return [whole] * len(going)  # throttled, lost, …: as each of them would have been told by itself

    async def _assigned(self, going: Sequence[Sent], plans: Sequence[WirePlan], whole: Answer) -> list[Answer | ErrorClass]:
        """The entries of a bundle's answer, each to whom it is of; who has none is looked up, and goes alone if it goes again."""
        try:
            entries = bundles.answers(self.run.tenant.ehr.bundle, whole) or []
            types = {plan.identity.resource_type for plan in plans}
            shown = await asyncio.gather(*(self.conclusions.shown(entry, types) for entry in entries))
            found = bundles.assign(plans, shown)
        except Exception as error:
            if ends_the_run(error):
                raise
            report_defect(error)
            found = [None] * len(plans)
        self.share.update((sent.intent.intent_id, 1) for sent, answer in zip(going, found, strict=True) if answer is None)
        return [ODD if answer is None else answer for answer in found]

    async def _exchange(self, request: Request, kind: RequestKind) -> Answer | ErrorClass:
        try:
            answer = await self.client.send(request)
        except NoAnswer as none:
            self.health.failed(none.code)
            outcome = unanswered_outcome(kind, sent=none.sent)
            return outcome if none.sent else ErrorClass("throttled" if none.code == HELD else none.code, outcome.recovery)
        except TargetError as error:  # no token, or an address that is not allowed: nothing left
            self.health.trouble = error
            return ErrorClass(error.code, Recovery.RETRY)
        except Exception as error:
            if ends_the_run(error):
                raise
            report_defect(error)
            return DEFECT
        plain = self.conclusions.adapter.capabilities.vendor.answers.outcomes.value is False
        if is_gateways(answer, plain=plain):
            self.health.failed(GATEWAY.code)
        elif answer.status in _OUT_OF_ORDER:
            self.health.failed(_OUT_OF_ORDER[answer.status])
        else:
            self.health.wrote()
        return answer
