"""What an EHR's answer, or a look for one that never came, is to the ledger: the one place where such a change is made."""

from __future__ import annotations

import random
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.commit.adapters.base import Adapter, Halt, NotNow, WirePlan
from fhir_writeback_dagster.commit.auth.scopes import wanted
from fhir_writeback_dagster.commit.engine.reconcile import Reconciler, ReconcileResult, Unread
from fhir_writeback_dagster.commit.limits.backoff import backoff
from fhir_writeback_dagster.commit.limits.rate_windows import RateLimiter
from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.commit.protocol.changes import (
    Absent,
    Accepted,
    AfterAnswer,
    Change,
    Confirmed,
    Evidence,
    Lost,
    Refuse,
    Retry,
    Review,
    Stop,
    after_answer,
    after_defect,
    after_look,
    at_gate,
)
from fhir_writeback_dagster.commit.protocol.defects import ends_the_run, report_defect
from fhir_writeback_dagster.commit.protocol.error_classes import (
    GATEWAY,
    LACKS_SCOPE,
    MISSING,
    TOKEN_REFUSED,
    ErrorClass,
    Recovery,
)
from fhir_writeback_dagster.commit.protocol.model import Attempt, Intent, Standing
from fhir_writeback_dagster.commit.protocol.rights import named_scopes
from fhir_writeback_dagster.commit.protocol.transitions import Event
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.fhir.content import lost
from fhir_writeback_dagster.rules.fhir.resource_url import Named
from fhir_writeback_dagster.rules.target.effective_limits import quiet_of

FIRST_POLL = timedelta(seconds=1)
FIRST_UNREAD_S, LONGEST_UNREAD_S = 10.0, 900.0
FIRST_PAUSE = 3
"""What could not even be planned is not tried again at once (`backoff` of so many tries)."""
BUNDLE_REFUSED = ErrorClass("bundle_refused", Recovery.RETRY)
"""A bundle was refused as a whole, so none of it was done; one of its entries, or its size, is at fault."""
ODD = ErrorClass("odd_answer", Recovery.RECONCILE)
UNSEEN = ErrorClass("unseen", Recovery.POLL)
"""The target says that it made something, and nobody can see it yet: it may never be taken for absent."""
DEFECT = ErrorClass("defect", Recovery.RECONCILE)
"""We stumbled over a request or its answer: nobody knows whether it was applied."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


@dataclass(frozen=True, slots=True)
class Sent:
    """A request of an intent that is on its way, or was."""

    intent: Intent
    plan: WirePlan
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Conclusions:
    """Makes changes of plans that halt, of answers and of looks."""

    run: RunContext
    adapter: Adapter
    reconciler: Reconciler
    limiter: RateLimiter

    def of_halt(self, intent: Intent, halt: Halt | Unread | Stop) -> Change | None:
        """The step of an intent whose plan is that it cannot be sent now."""
        if isinstance(halt, Unread):
            if self._refused_too_long(intent, halt):
                return at_gate(intent, Review("read_refused_too_long", self._why_unread(intent, halt)))
            return at_gate(intent, Retry(halt.reason, self._unread_s(intent), "failed"))
        if isinstance(halt, NotNow):
            pause = backoff(max(intent.sends, FIRST_PAUSE))
            return at_gate(intent, Retry(halt.reason, max(pause, self._quiet_s()) if halt.reason == MISSING else pause))
        return at_gate(intent, halt)

    def of_defect(self, intent: Intent, error: Exception) -> Change | None:
        """The step of an intent whose group met a defect of ours."""
        return after_defect(intent, report_defect(error, intent), self._quiet_s())

    def of_look(self, intent: Intent, found: ReconcileResult) -> Change | None:
        """The step of an intent that was looked for in the EHR."""
        settings, since = self.run.tenant.ehr, self._since_sent(intent)
        if isinstance(found, Unread):
            if since > settings.pending_ttl or self._refused_too_long(intent, found):
                return after_look(intent, Review("look_refused_too_long", self._why_unread(intent, found)))
            return after_look(intent, Lost(found.reason, max(self._quiet_s(), self._unread_s(intent)), "failed"))
        if isinstance(found, Absent) and intent.now.accepted:
            # The target took it (202), or made it and does not show it yet: it is asked ever more rarely, and at last a person.
            if since > settings.pending_ttl:
                named = {"resources": [str(place) for place in intent.located]} if intent.located else {}
                return after_look(intent, Review("pending_too_long", named))
            return after_look(intent, Absent(min(max(since, FIRST_POLL), settings.mirror_every).total_seconds()))
        return after_look(intent, found)

    async def of_answer(self, sent: Sent, answer: Answer | ErrorClass) -> Change | None:
        """The step that an answer is; one that we stumble over is looked into as if it had not come."""
        try:
            result, attempt = await self._answered(sent, answer)
        except Exception as error:
            if ends_the_run(error):
                raise
            report_defect(error, sent.intent)
            result, attempt = self._failed(sent, DEFECT, answer if isinstance(answer, Answer) else None)
        return after_answer(sent.intent, result, attempt)

    async def _answered(self, sent: Sent, answer: Answer | ErrorClass) -> tuple[AfterAnswer, Attempt]:
        if isinstance(answer, ErrorClass):
            return self._failed(sent, answer, None)
        sent = replace(sent, attempt=replace(sent.attempt, ehr_request_id=self._named_by_ehr(answer)))
        outcome = self.adapter.interpret(sent.plan, answer)
        if outcome.recovery is Recovery.REREAD:
            return await self._reread(sent, outcome, answer)
        if outcome.recovery not in (Recovery.CONFIRM, Recovery.COMPARE):
            return self._failed(sent, outcome, answer)
        standing, shown = self.adapter.recognise(sent.plan, answer), answer
        if standing is None and not sent.plan.path.startswith("/"):
            shown = await self.shown(answer, {sent.plan.identity.resource_type})
            standing = self.adapter.recognise(sent.plan, shown)
        standing = standing or await self._look_it_up(sent.intent)
        if standing is None:
            return self._unseen(sent, answer, shown)
        told = replace(sent, attempt=replace(sent.attempt, status=answer.status, outcome=outcome.code))
        if outcome.recovery is Recovery.CONFIRM:
            return await self._written(told, standing)
        return await self._existed(told, standing), told.attempt

    async def shown(self, answer: Answer, types: AbstractSet[str]) -> Answer:
        """A success with the resource that its Location names, where it shows none, or another one."""
        place, shown = answer.location(), answer.shown()
        if answer.status >= 300 or place is None or place.resource_type not in types:
            return answer
        if shown is not None and place == (shown["resourceType"], shown.get("id")):
            return answer
        there = await self.reconciler.read(place)
        return replace(answer, body=b"", parsed=None) if there is None else replace(there, status=answer.status)

    def _unseen(self, sent: Sent, answer: Answer, shown: Answer) -> tuple[AfterAnswer, Attempt]:
        """A success that does not show ours: somebody else's resource is no answer, nothing at all is an acknowledgement."""
        if sent.plan.verb != "create" or shown.shown() is not None:
            return self._failed(sent, ODD, answer)
        place = answer.location()
        located = replace(sent.attempt, located=str(place) if place else None)
        return self._failed(replace(sent, attempt=located), UNSEEN, answer)

    def _named_by_ehr(self, answer: Answer) -> str | None:
        """The EHR's own id of the request; what does not look like one could be anything, and is not kept."""
        header = self.adapter.capabilities.vendor.answers.request_id_header.value
        found = answer.headers.get(header.lower(), "") if header else ""
        return found if _REQUEST_ID.fullmatch(found) else None

    async def _written(self, sent: Sent, standing: Standing) -> tuple[AfterAnswer, Attempt]:
        """Success: does it stand there as it was sent? What the answer shows tells, or a read where the matrix asks for one."""
        intent, target = sent.intent, self.adapter.capabilities
        if target.vendor.answers.read_back.get(unknown=True) and not target.own_api(intent.resource_type):
            place = Named(standing.resource["resourceType"], standing.resource["id"])
            there = await self.reconciler.read(place, request_id=str(intent.record_id))
            seen = self.adapter.recognise(sent.plan, there) if there else None
            if seen is None:
                return self._failed(sent, ErrorClass("read_back_failed", Recovery.RECONCILE), None)
            standing = replace(seen, etag=seen.etag or standing.etag)
        loss = lost(sent.plan.expected, standing.resource, intent.must_keep)
        if loss.grave:
            kept = replace(sent.attempt, outcome="field_loss", answer=canonicaljson.encode(standing.resource))
            return Refuse("field_loss", {"elements": list(loss.grave)}, standing), kept
        written = Confirmed("created" if intent.link is None else "updated", standing, evidence={"elements": list(loss.light)})
        return written, sent.attempt

    async def _existed(self, sent: Sent, standing: Standing) -> AfterAnswer:
        """The server found our identifier: only content that is ours makes it ours."""
        intent = sent.intent
        if self.adapter.judge(sent.plan, standing):
            # Sent before, and refused then: who says no and stores it all the same stored ours.
            return Confirmed("reconciled" if intent.sends else "suppressed", standing, "existed")
        if intent.sends:
            found = await self.reconciler.at(intent)
            if isinstance(found, Confirmed):
                return Confirmed("reconciled", found.standing, found.reason)
        return Review("existed_differently", {"resource": f"{standing.resource['resourceType']}/{standing.resource['id']}"})

    async def _reread(self, sent: Sent, outcome: ErrorClass, answer: Answer) -> tuple[AfterAnswer, Attempt]:
        """An update was refused: because what stands there is not what we planned on, or because of itself?"""
        found = await self.reconciler.at(sent.intent)
        told = replace(sent.attempt, status=answer.status, outcome=outcome.code, answer=answer.text())
        if isinstance(found, (Confirmed, Review)):
            return found, told
        if isinstance(found, Absent):
            return Refuse(outcome.code), told
        return Retry(outcome.code, backoff(sent.intent.sends)), told

    async def _look_it_up(self, intent: Intent) -> Standing | None:
        """The answer did not show what stands there now (an empty 201): read it."""
        found = await self.reconciler.at(intent)
        return found.standing if isinstance(found, Confirmed) else None

    def _failed(self, sent: Sent, outcome: ErrorClass, answer: Answer | None) -> tuple[AfterAnswer, Attempt]:
        told = replace(
            sent.attempt,
            status=answer.status if answer else None,
            outcome=outcome.code,
            answer=answer.text() if answer else b"",
        )
        if outcome.code == LACKS_SCOPE:
            scopes = named_scopes(answer) if answer else []
            return Review(LACKS_SCOPE, {"scope": scopes or [self.scope_of(sent.intent, sent.plan.verb)]}), told
        return self._result(replace(sent, attempt=told), outcome, answer), told

    def _result(self, sent: Sent, outcome: ErrorClass, answer: Answer | None) -> AfterAnswer:
        match outcome.event:
            case Event.REVIEW:
                return Review(outcome.code)
            case Event.REFUSE:
                return Refuse(outcome.code)
            case Event.LOSE:
                pause = backoff(sent.intent.sends) if outcome == GATEWAY else 0.0
                return Lost(outcome.code, max(self._quiet_s(), pause) if outcome.quiet else 0.0)
            case Event.ACCEPT:
                return Accepted(outcome.code, self._pause_s(sent.intent, outcome, answer))
            case _ if answer and (sent.plan.verb == "update" or sent.plan.precondition == "search"):
                # Who says "not now" may have done it. A second update would undo what a person made of it since, and before a
                # second create stands only a search, which has to see the first.
                quiet_s = self._quiet_s() if sent.plan.verb == "create" else 0.0
                return Lost(outcome.code, max(self._pause_s(sent.intent, outcome, answer), quiet_s))
            case _:
                return Retry(outcome.code, self._pause_s(sent.intent, outcome, answer))

    def _pause_s(self, intent: Intent, outcome: ErrorClass, answer: Answer | None) -> float:
        if outcome == BUNDLE_REFUSED:
            return 0.0
        asked = answer.retry_after(self.run.now()) if answer else None
        if outcome.code == "throttled" and asked is None:
            asked = self.limiter.throttled_s()
            self.limiter.hold(asked or 0.0)
        return backoff(intent.sends) if asked is None else asked + random.uniform(0.0, 0.5)  # noqa: S311 - no secret

    def given_up(self, intent: Intent) -> Review:
        """An intent was sent so often in vain that a person has to look at it."""
        if intent.reason == TOKEN_REFUSED:
            scope = self.scope_of(intent, "create" if intent.link is None else "update")
            return Review("not_authorized", {"scope": [scope], "sends": intent.sends})
        return Review("retries_exhausted", {"last": intent.reason, "sends": intent.sends})

    def scope_of(self, intent: Intent, request: Literal["create", "update", "read"]) -> str:
        """The scope that a request for ``intent`` needs, as this target calls it."""
        rights = {"create": "c", "update": "u", "read": "rs"}[request]
        return wanted(intent.resource_type, rights, v1=self.adapter.capabilities.vendor.access.scopes.value == ("v1",))

    def _why_unread(self, intent: Intent, unread: Unread) -> Evidence:
        code = unread.reason.removeprefix("look_")
        if code not in (LACKS_SCOPE, TOKEN_REFUSED, "forbidden"):
            return {"last": unread.reason}
        return {"last": unread.reason, "scope": list(unread.scopes) or [self.scope_of(intent, "read")]}

    def _refused_too_long(self, intent: Intent, unread: Unread) -> bool:
        """A target that is down for everybody is given longer than one that refuses a patient."""
        settings = self.run.tenant.ehr
        patience = settings.refused_ttl if unread.refused else settings.pending_ttl
        return intent.refused_since is not None and self.run.now() - intent.refused_since > patience

    def _unread_s(self, intent: Intent) -> float:
        """Seconds until what could not be read is asked for again: ever more rarely, because a closed chart stays closed."""
        waited = (self.run.now() - intent.refused_since).total_seconds() if intent.refused_since else 0.0
        return max(FIRST_UNREAD_S, min(waited / 4, LONGEST_UNREAD_S)) * random.uniform(1.0, 1.5)  # noqa: S311 - no secret

    def _quiet_s(self) -> float:
        return quiet_of(self.run.tenant.ehr).total_seconds()

    def _since_sent(self, intent: Intent) -> timedelta:
        return self.run.now() - intent.sent_at if intent.sent_at else timedelta()
