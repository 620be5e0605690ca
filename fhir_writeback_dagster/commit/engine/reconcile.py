"""Looking whether a write that had no answer was applied: by our identifier, by the natural key, by the resource's history.

What is found and says what we wanted is ours, however it came there. What is found and says something else goes to a person.
Only what a complete and reliable look after the quiet period does not find may be sent again, through the gate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fhir_writeback_dagster.commit.adapters.base import Adapter, ChartFacts, NotNow, Plan, WirePlan
from fhir_writeback_dagster.commit.adapters.guards import MODIFIED_JUST_NOW
from fhir_writeback_dagster.commit.adapters.search import token
from fhir_writeback_dagster.commit.adapters.superseding import key_of, successor, supersedes
from fhir_writeback_dagster.commit.engine.chart_lookup import ChartLookup
from fhir_writeback_dagster.commit.engine.target_health import TargetHealth
from fhir_writeback_dagster.commit.fhir_client import FhirClient, Unreadable
from fhir_writeback_dagster.commit.http.transport import NO_TURN, NoAnswer
from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.commit.protocol.changes import Absent, Confirmed, Review, Settled, Stop
from fhir_writeback_dagster.commit.protocol.error_classes import GATEWAY, ErrorClass, Recovery, classify, is_gateways
from fhir_writeback_dagster.commit.protocol.identity import bears
from fhir_writeback_dagster.commit.protocol.model import Intent, Link, Standing
from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.rules.fhir.content import same_content
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.rules.fhir.resource_url import Named, is_id


@dataclass(frozen=True, slots=True)
class Unread:
    """What is to be known of the chart could not be read; later again. ``refused``: of this patient, and the target is up."""

    reason: str
    refused: bool = False
    scopes: tuple[str, ...] = ()
    """Which the refusal names as wanting."""


ReconcileResult = Confirmed | Absent | Review | Unread | Stop
"""What a look showed; Stop: its turn did not come."""


class Reconciler:
    """``system`` is the tenant's own identifier system; ``health`` is told of the looks that are refused."""

    def __init__(
        self, ehr: FhirClient, chart: ChartLookup, adapter: Adapter, system: str, health: TargetHealth | None = None
    ) -> None:
        self._ehr, self._chart, self._adapter, self._system, self._health = ehr, chart, adapter, system, health

    async def facts(self, item: Intent) -> ChartFacts:
        """What the adapter needs to know of the chart before it plans ``item``.

        :raises Unreadable: the chart could not be read.
        """
        alike = await self._chart.alike(item) if self._adapter.needs_chart(item) else []
        link = item.link
        if link is None or not self._adapter.needs_current(item):
            ours = await self.by_identifier(item) if self._adapter.needs_search(item) else ()
            return ChartFacts(alike, ours=ours)
        return ChartFacts(alike, await self._current(item, link))

    def plan(self, item: Intent, facts: ChartFacts) -> Plan:
        """What the adapter makes of ``item`` and ``facts``. The last line: only what was read, and is ours, is changed."""
        plan = self._adapter.plan(item, facts)
        if not (isinstance(plan, WirePlan) and plan.request == "update" and item.link):
            return plan
        current = facts.current.shown() if facts.current else None
        reason = "another_resource" if current is None else plan.identity.against(current)
        if reason is None and current and plan.path != f"{current['resourceType']}/{current['id']}":
            reason = "another_resource"
        return Review(reason, {"resources": [plan.path]}) if reason else plan

    async def at(self, item: Intent) -> ReconcileResult:
        """Was ``item`` applied?"""
        try:
            if supersedes(item):
                found = await self._superseded(item)
            else:
                found = await (self._created(item) if item.link is None else self._updated(item, item.link))
        except (TargetError, NoAnswer) as error:
            unread = self.unread(item, error)
            return unread if isinstance(unread, Stop) else replace(unread, reason=f"look_{unread.reason}")
        if self._health:
            self._health.read()
        return found

    def unread(self, item: Intent, error: TargetError | NoAnswer) -> Unread | Stop:
        """What it is to ``item`` that a read for it came to nothing; the target's health is told."""
        if error.code in NO_TURN:
            return Stop(item.reason or error.code)
        refused = self._health.unread(error, item.patient_id) if self._health else False
        return Unread(error.code, refused, error.scopes if isinstance(error, Unreadable) else ())

    async def _current(self, item: Intent, link: Link) -> Answer:
        """The linked resource as it stands there now, or that it is gone.

        :raises Unreadable: the answer tells neither. It may be refused for this one alone, so it is never more than one failure.
        """
        answer = await self._ehr.read(link.resource_type, link.resource_id, request_id=str(item.record_id))
        outcome = classify("read", answer, plain=self._ehr.paging.plain)
        gone = answer.status in (404, 410) and not is_gateways(answer, plain=self._ehr.paging.plain)
        if gone or (outcome.recovery is Recovery.CONFIRM and answer.resource() is not None):
            return answer
        code = "odd_answer" if outcome.recovery is Recovery.CONFIRM else outcome.code
        what = f"reading {link.resource_type} ({answer.status})"
        raise Unreadable(ErrorClass(code, Recovery.RETRY), what, self._ehr.base_url, answer)

    async def _created(self, item: Intent) -> ReconcileResult:
        if there := await self._acknowledged(item):
            return await self.compare(item, there)
        by = self._adapter.reconcile(item)
        found = await self.by_identifier(item) if by.identifier else []
        if found is None:
            return Review("search_unreliable")
        if len(found) > 1:
            return Review("several_matches", {"resources": _names(found)})
        if found:
            return await self.compare(item, found[0])
        alike = [r for r in await self._chart.alike(item, fresh=True) if same_content(item.payload, r)]
        # Only an EHR that drops foreign identifiers shows ours by its content alone. Where ours would have been found, an equal
        # one is somebody else's: the plan that follows sees it too, and links it as theirs.
        if alike and not by.identifier:
            return Confirmed("reconciled", Standing(alike[0], None), "found_by_natural_key")
        if by.natural_key or self._adapter.capabilities.can_be_found(item.resource_type):
            return Absent()
        return Review("cannot_be_found")

    async def by_identifier(self, item: Intent) -> list[Resource] | None:
        """The resources that bear the item's key; None: the server's search cannot be believed.

        A server that does not know the parameter may answer with everything: what does not bear the identifier was not
        searched for. What bears it under an id that is none of R4's can be neither read nor linked.
        """
        key = key_of(item)
        found = await self._ehr.search(item.resource_type, [("identifier", token(self._system, key))])
        return found if all(bears(r, self._system, key) and is_id(r["id"]) for r in found) else None

    async def compare(self, item: Intent, found: Resource) -> ReconcileResult:
        """``found`` bears our identifier: does it, or did it once, say what we wrote?"""
        if same_content(item.payload, found):
            return Confirmed("reconciled", Standing(found, None), "found")
        for version in await self._history(found["resourceType"], found["id"]) or ():
            if same_content(item.payload, version):
                return Confirmed("reconciled", Standing(version, None), "found_in_history")
        return Review("differs_from_ours", {"resources": _names([found])})

    async def _superseded(self, item: Intent) -> ReconcileResult:
        """A document that takes the place of another is there or not; the one before says nothing about it."""
        there = await self._acknowledged(item)
        found = [there] if there else await self.by_identifier(item)
        if found is None:
            return Review("search_unreliable")
        if len(found) > 1:
            return Review("several_matches", {"resources": _names(found)})
        assert item.link is not None
        whole = replace(item, payload=successor(item, item.link, self._system))
        if not found:
            return Absent()
        compared = await self.compare(whole, found[0])
        return replace(compared, outcome="updated") if isinstance(compared, Confirmed) else compared

    async def read(self, place: Named, *, request_id: str = "") -> Answer | None:
        """The answer to a read that shows the resource; None: it could not be read."""
        try:
            answer = await self._ehr.read(place.resource_type, place.id, request_id=request_id)
        except (TargetError, NoAnswer):
            return None
        found = answer.shown()
        return answer if answer.status == 200 and found and place == (found["resourceType"], found.get("id")) else None

    async def _acknowledged(self, item: Intent) -> Resource | None:
        """What the target said that it made of ``item``, if it can be seen by now, and is what it said."""
        identity = self._adapter.identity(item)
        for place in item.located:
            answer = await self.read(place, request_id=str(item.record_id))
            there = answer.shown() if answer else None
            nameless = there and not bears(there, self._system) and not self._adapter.reconcile(item).identifier
            if there and identity.against(there) is None and (nameless or identity.proved_by(there)):
                return there
        return None

    async def _updated(self, item: Intent, link: Link) -> ReconcileResult:
        now = await self._current(item, link)
        plan = self._adapter.plan(item, ChartFacts(current=now))
        if isinstance(plan, Settled):
            return Confirmed(plan.outcome, plan.standing, "found")
        if isinstance(plan, NotNow) and plan.reason != MODIFIED_JUST_NOW:
            return Unread(f"look_{plan.reason}")
        if isinstance(plan, WirePlan | NotNow) and _version(now) == link.version_id:
            return Absent()
        # Somebody changed it: before our write, or after it, and back perhaps? Its history knows.
        versions = await self._since(link)
        for version in versions or ():
            then = self._adapter.plan(item, ChartFacts(current=Answer(200, {}, parsed=version)))
            if isinstance(then, Settled):
                return Confirmed("updated", then.standing, "found_in_history")
        if not isinstance(plan, WirePlan | NotNow):
            return plan if isinstance(plan, Review) else Review(plan.reason)
        if versions is None and item.now.unanswered:
            return Review("history_unreadable")
        return Absent()

    async def _since(self, link: Link) -> list[Resource] | None:
        """The versions after the one that we left there, newest first; None: nobody can tell which these are."""
        if link.version_id is None:
            return None
        versions: list[Resource] = []
        for version in await self._history(link.resource_type, link.resource_id, down_to=link.version_id) or ():
            if Standing(version, None).version_id == link.version_id:
                return versions or None  # none, and yet another stands there now: it is told in another order
            versions.append(version)
        return None

    async def _history(self, resource_type: str, resource_id: str, *, down_to: str | None = None) -> list[Resource] | None:
        """Earlier versions, newest first, all of them or with all pages down to that of ``down_to``; None where the server does
        not show them.

        :raises Unreadable: it cannot show them now. A server that shows none may say so without FHIR, as a gateway would.
        """
        versions: list[Resource] = []
        try:
            async for page in self._ehr.history(resource_type, resource_id):
                versions += [version for version in page if version["id"] == resource_id]
                if down_to is not None and any(Standing(version, None).version_id == down_to for version in page):
                    break
        except Unreadable as error:
            if error.outcome.recovery in (Recovery.RETRY, Recovery.WAIT) and error.outcome.code != GATEWAY.code:
                raise
            return None
        return versions


def _version(answer: Answer) -> str | None:
    return Standing(answer.resource() or {}, None).version_id


def _names(resources: list[Resource]) -> list[str]:
    return sorted(f"{r['resourceType']}/{r['id']}" for r in resources)
