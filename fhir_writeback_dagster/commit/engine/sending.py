"""From plans to what became of them: through the gate, over the wire, and what the answers mean."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import structlog

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.commit.adapters.base import Adapter, Settled, WirePlan
from fhir_writeback_dagster.commit.engine import bundles
from fhir_writeback_dagster.commit.engine.gate import SendGate, Want
from fhir_writeback_dagster.commit.engine.reconcile import Reconciler, ReconcileResult
from fhir_writeback_dagster.commit.fhir_client import FHIR_JSON, FhirClient, Unreadable
from fhir_writeback_dagster.commit.http.transport import HELD, NO_TURN, NoAnswer
from fhir_writeback_dagster.commit.limits.backoff import backoff
from fhir_writeback_dagster.commit.limits.rate_windows import RateLimiter
from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.commit.protocol.error_classes import ErrorClass, Recovery, classify, unanswered_outcome
from fhir_writeback_dagster.commit.protocol.model import Attempt, Change, Intent, Standing, change
from fhir_writeback_dagster.commit.protocol.transitions import Action, Event
from fhir_writeback_dagster.errors import TargetError, describe
from fhir_writeback_dagster.ids import new_id
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.fhir.content import lost
from fhir_writeback_dagster.rules.target.effective_limits import quiet_of

_OUT_OF_ORDER = {401: "token_refused", 403: "forbidden", 502: "no_answer", 503: "unavailable", 504: "no_answer"}
_REFUSED = "bundle_refused"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_ODD = ErrorClass("odd_answer", Recovery.RECONCILE)


DEFECTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What an answer, or a resource in the chart, that nobody thought of can make us raise: one must not stop the others."""


def tell_defect(error: Exception, item: Intent) -> str:
    """Log where it happened (no value is in that line); returns the code that the intent gets."""
    structlog.get_logger().error(describe(error), code="defect", intent_id=str(item.intent_id))
    return "defect"


@dataclass(slots=True)
class Sender:
    """Sends what the gate lets through. ``trouble``: the target as a whole is out of order; stop taking up work."""

    run: RunContext
    ehr: FhirClient
    gate: SendGate
    adapter: Adapter
    look: Reconciler
    pace: RateLimiter
    share: dict[UUID, int] = field(default_factory=dict)
    """Intents whose bundle was refused as a whole: with how many others at most they may go, until the one at fault is alone."""
    trouble: TargetError | None = None
    _failures: int = 0

    async def ship(self, wants: Sequence[Settled | WirePlan], items: Sequence[Intent]) -> list[Change]:
        """Take ``items`` with their plans through the gate, send those that may go (in one request where there are several),
        and record what came of it. Returns every step that was made.
        """
        writes = sum(isinstance(plan, WirePlan) for plan in wants)
        if writes and not await self.pace.turn("write", writes):
            return await self.gate.write([change(item, Event.STOP, reason=item.reason) for item in items])
        single = len(items) == 1
        together = "" if single else str(new_id())
        ready = [
            Want(item, plan, _attempt(plan, together or str(item.record_id)) if isinstance(plan, WirePlan) else None)
            for item, plan in zip(items, wants, strict=True)
        ]
        # Before the gate: the lease that it writes then outlasts the request by the gate's own margin.
        deadline = time.monotonic() + self.run.tenant.ehr.timeout.total_seconds()
        passed = await self.gate.pass_on(ready)
        sending = {c.item.intent_id for c in passed if Action.TRANSMIT in c.actions}
        going = [want for want in ready if want.item.intent_id in sending]
        if not going:
            return passed
        answers = await (self._alone(going[0], deadline) if len(going) == 1 else self._together(going, together, deadline))
        changes = await asyncio.gather(*map(self._concluded, going, answers))
        return [*passed, *await self.gate.write(changes)]

    async def _alone(self, want: Want, deadline: float) -> list[Answer | ErrorClass]:
        plan = want.plan
        assert isinstance(plan, WirePlan)
        headers = {**plan.headers, "X-Request-Id": str(want.item.record_id)}
        return [await self._exchange(plan.method, plan.path, headers, plan, deadline)]

    async def _exchange(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        plan: WirePlan,
        deadline: float,
        body: bytes | None = None,
        entries: int = 1,
    ) -> Answer | ErrorClass:
        try:
            whole = plan.body if body is None else body
            answer = await self.ehr.send(method, path, headers, whole, deadline=deadline, kind="write", had_turn=entries)
        except NoAnswer as none:
            self.failed(none.code)
            outcome = unanswered_outcome(plan.request, sent=none.sent)
            return outcome if none.sent else ErrorClass("throttled" if none.code == HELD else none.code, outcome.recovery)
        except TargetError as error:  # no token, or an address that is not allowed: nothing left
            self.trouble = error
            return ErrorClass(error.code, Recovery.RETRY)
        if answer.status in _OUT_OF_ORDER:
            self.failed(_OUT_OF_ORDER[answer.status])
        else:
            self._failures = 0
        return answer

    def failed(self, code: str) -> None:
        """So many requests in a row came to nothing that it is not they who are at fault: the target is down or shuts us out,
        and every further request would make an unknown of a write, or a quarantine item of a good one.
        """
        if code in NO_TURN:
            return
        self._failures += 1
        if self._failures > self.run.tenant.ehr.concurrency:
            self.trouble = TargetError(
                code,
                "the EHR answers nothing, or refuses everything",
                where=self.ehr.base_url,
                fix="nothing is lost: what may have arrived is looked up, the rest is sent when the EHR is back",
            )

    def unreadable(self, error: TargetError | NoAnswer) -> None:
        """A read came to nothing; one that is refused is refused to every patient alike."""
        later = isinstance(error, Unreadable) and error.outcome.recovery in (Recovery.RETRY, Recovery.WAIT)
        if later or isinstance(error, NoAnswer):
            self.failed(error.code)
        else:
            self.trouble = error

    async def looked(self, item: Intent) -> ReconcileResult:
        """What a look shows; one that is refused says of the target what any other read says."""
        finding = await self.look.at(item)
        if finding.error is not None:
            self.unreadable(finding.error)
        return finding

    async def _together(self, going: Sequence[Want], request_id: str, deadline: float) -> list[Answer | ErrorClass]:
        kind = self.run.tenant.ehr.bundle
        plans = [want.plan for want in going if isinstance(want.plan, WirePlan)]
        headers = {"Content-Type": FHIR_JSON, "Prefer": "return=representation", "X-Request-Id": request_id}
        whole = await self._exchange("POST", "", headers, plans[0], deadline, bundles.pack(kind, plans), len(plans))
        if isinstance(whole, ErrorClass):
            return [whole] * len(going)
        outcome = classify("create", whole)
        if outcome.recovery is Recovery.CONFIRM:
            entries = bundles.unpack(kind, plans, whole)
            return [_ODD] * len(going) if entries is None else list(entries)
        if outcome.event in (Event.REFUSE, Event.REVIEW):
            # Refused as a whole, so none of it was done; one of them, or the size, is at fault.
            self.share.update((want.item.intent_id, len(going) // 2) for want in going)
            return [ErrorClass(_REFUSED, Recovery.RETRY)] * len(going)
        return [whole] * len(going)  # throttled, lost, …: as each of them would have been told by itself

    async def _concluded(self, want: Want, answer: Answer | ErrorClass) -> Change | None:
        """The step that an answer is; one that we stumble over is looked into as if it had not come."""
        try:
            return await self._conclude(want, answer)
        except DEFECTS as error:
            assert want.attempt is not None
            outcome = ErrorClass(tell_defect(error, want.item), Recovery.RECONCILE)
            return self._failed(want.item, outcome, want.attempt, answer if isinstance(answer, Answer) else None)

    async def _conclude(self, want: Want, answer: Answer | ErrorClass) -> Change | None:
        """The step that an answer is."""
        item, plan, attempt = want.item, want.plan, want.attempt
        assert isinstance(plan, WirePlan)
        assert attempt is not None
        if isinstance(answer, ErrorClass):
            return self._failed(item, answer, attempt, None)
        attempt = replace(attempt, ehr_request_id=self._named_by_ehr(answer))
        outcome = self.adapter.interpret(plan, answer)
        if outcome.recovery is Recovery.REREAD:
            return await self._reread(item, outcome, attempt, answer)
        if outcome.recovery not in (Recovery.CONFIRM, Recovery.COMPARE):
            return self._failed(item, outcome, attempt, answer)
        standing = self.adapter.recognise(plan, answer) or await self._look_it_up(item)
        if standing is None:
            return self._failed(item, _ODD, attempt, answer)
        told = replace(attempt, status=answer.status, outcome=outcome.code)
        if outcome.recovery is Recovery.CONFIRM:
            return await self._written(item, plan, standing, told)
        return await self._existed(item, plan, standing, told)

    def _named_by_ehr(self, answer: Answer) -> str | None:
        """The EHR's own id of the request; what does not look like one could be anything, and is not kept."""
        header = self.adapter.capabilities.vendor.answers.request_id_header.value
        found = answer.headers.get(header.lower(), "") if header else ""
        return found if _REQUEST_ID.fullmatch(found) else None

    async def _written(self, item: Intent, plan: WirePlan, standing: Standing, told: Attempt) -> Change | None:
        """Success: does it stand there as it was sent? What the answer shows tells, or a read where the matrix asks for one."""
        target = self.adapter.capabilities
        if target.vendor.answers.read_back.get(unknown=True) and not target.own_api(item.resource_type):
            seen = await self.look.read_back(item, standing)
            if seen is None:
                return self._failed(item, ErrorClass("read_back_failed", Recovery.RECONCILE), told, None)
            standing = seen
        loss = lost(plan.expected, standing.resource, item.must_keep)
        if loss.grave:
            kept = replace(told, outcome="field_loss", answer=canonicaljson.encode(standing.resource))
            why = {"elements": list(loss.grave)}
            return change(item, Event.REFUSE, reason="field_loss", standing=standing, attempt=kept, evidence=why)
        written = "created" if item.link is None else "updated"
        why = {"elements": list(loss.light)}
        return change(item, Event.CONFIRM, outcome=written, standing=standing, attempt=told, evidence=why)

    async def _existed(self, item: Intent, plan: WirePlan, standing: Standing, told: Attempt) -> Change | None:
        """The server found our identifier: only content that is ours makes it ours."""
        if self.adapter.judge(plan, standing):
            # Sent before, and refused then: who says no and stores it all the same stored ours.
            outcome = "reconciled" if item.now.unanswered or item.sends else "suppressed"
            return change(item, Event.CONFIRM, outcome=outcome, reason="existed", standing=standing, attempt=told)
        if item.now.unanswered:
            finding = await self.looked(item)
            if finding.event is Event.CONFIRM:
                return change(
                    item, Event.CONFIRM, outcome="reconciled", reason=finding.reason, standing=finding.standing, attempt=told
                )
        evidence = {"resource": f"{standing.resource['resourceType']}/{standing.resource['id']}"}
        return change(item, Event.REVIEW, reason="existed_differently", attempt=told, evidence=evidence)

    async def _reread(self, item: Intent, outcome: ErrorClass, attempt: Attempt, answer: Answer) -> Change | None:
        """An update was refused: because what stands there is not what we planned on, or because of itself?"""
        finding = await self.looked(item)
        told = replace(attempt, status=answer.status, outcome=outcome.code, answer=answer.text())
        if finding.event is Event.CONFIRM:
            return change(
                item, Event.CONFIRM, outcome=finding.outcome, reason=finding.reason, standing=finding.standing, attempt=told
            )
        if finding.event is Event.REVIEW:
            why = {"reason": finding.reason, "evidence": finding.evidence, "link_state": finding.link_state}
            return change(item, Event.REVIEW, attempt=told, **why)
        if finding.event is Event.ABSENT:
            return change(item, Event.REFUSE, reason=outcome.code, attempt=told)
        return change(item, Event.RETRY, reason=outcome.code, attempt=told, wait_s=backoff(item.sends))

    async def _look_it_up(self, item: Intent) -> Standing | None:
        """The answer did not show what stands there now (an empty 201): read it."""
        finding = await self.looked(item)
        return finding.standing if finding.event is Event.CONFIRM else None

    def _failed(self, item: Intent, outcome: ErrorClass, attempt: Attempt, answer: Answer | None) -> Change | None:
        told = replace(
            attempt,
            status=answer.status if answer else None,
            outcome=outcome.code,
            answer=answer.text() if answer else b"",
        )
        return change(item, outcome.event, reason=outcome.code, attempt=told, wait_s=self._wait(item, outcome, answer))

    def _wait(self, item: Intent, outcome: ErrorClass, answer: Answer | None) -> float:
        if outcome.code == _REFUSED:
            return 0.0
        if outcome.recovery is Recovery.RECONCILE:
            return quiet_of(self.run.tenant.ehr).total_seconds() if outcome.quiet else 0.0
        asked = answer.retry_after(self.run.now()) if answer else None
        if outcome.code == "throttled" and asked is None:
            asked = self.pace.throttled_s()
            self.pace.hold(asked or 0.0)
        return backoff(item.sends) if asked is None else asked + random.uniform(0.0, 0.5)  # noqa: S311 - no secret


def _attempt(plan: WirePlan, request_id: str) -> Attempt:
    return Attempt(new_id(), plan.verb, plan.precondition, request_id)
