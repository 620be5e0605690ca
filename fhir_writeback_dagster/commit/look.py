"""Looking whether a write that had no answer was applied: by our identifier, by the natural key, by the resource's history.

What is found and says what we wanted is ours, however it came there. What is found and says something else goes to a person.
Only what a complete and reliable look after the quiet period does not find may be sent again, through the gate.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from fhir_writeback_dagster.commit.adapters.generic import bears
from fhir_writeback_dagster.commit.adapters.search import token
from fhir_writeback_dagster.commit.answer import Answer, dicts
from fhir_writeback_dagster.commit.chart import Chart
from fhir_writeback_dagster.commit.client import Ehr
from fhir_writeback_dagster.commit.documents import key_of, successor, supersedes
from fhir_writeback_dagster.commit.model import Item, Link, Resource, Standing
from fhir_writeback_dagster.commit.plan import Adapter, ChartFacts, Halt, Settled, WirePlan
from fhir_writeback_dagster.commit.protocol import Event
from fhir_writeback_dagster.commit.transport import NoAnswer
from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.rules.content import same_content


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look showed, as an event of the protocol: CONFIRM, ABSENT, REVIEW, or LOSE (could not look: later again)."""

    event: Event
    reason: str
    outcome: str | None = None
    standing: Standing | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    link_state: str | None = None


ABSENT = Finding(Event.ABSENT, "not_found")


class Look:
    """``system`` is the tenant's own identifier system."""

    def __init__(self, ehr: Ehr, chart: Chart, adapter: Adapter, system: str) -> None:
        self._ehr, self._chart, self._adapter, self._system = ehr, chart, adapter, system

    async def facts(self, item: Item) -> ChartFacts:
        """What the adapter needs to know of the chart before it plans ``item``.

        :raises Unreadable: the chart could not be read.
        """
        alike = await self._chart.alike(item) if self._adapter.needs_chart(item) else []
        link = item.link
        if link is None or not self._adapter.needs_current(item):
            ours = await self.by_identifier(item) if self._adapter.needs_search(item) else ()
            return ChartFacts(alike, ours=ours)
        return ChartFacts(alike, await self._ehr.read(link.resource_type, link.resource_id, request_id=str(item.record_id)))

    async def at(self, item: Item) -> Finding:
        """Was ``item`` applied?"""
        try:
            if supersedes(item):
                return await self._superseded(item)
            return await (self._created(item) if item.link is None else self._updated(item, item.link))
        except (TargetError, NoAnswer) as error:
            return Finding(Event.LOSE, f"look_{error.code}")

    async def _created(self, item: Item) -> Finding:
        by = self._adapter.reconcile(item)
        found = await self.by_identifier(item) if by.identifier else []
        if found is None:
            return Finding(Event.REVIEW, "search_unreliable")
        if len(found) > 1:
            return Finding(Event.REVIEW, "several_matches", evidence={"resources": _names(found)})
        if found:
            return await self.compare(item, found[0])
        # An EHR that drops foreign identifiers shows what it stored by its content only.
        alike = [r for r in await self._chart.alike(item, fresh=True) if same_content(item.payload, r)]
        if alike:
            return Finding(Event.CONFIRM, "found_by_natural_key", "reconciled", Standing(alike[0], None))
        if by.natural_key or self._adapter.capabilities.can_be_found(item.resource_type):
            return ABSENT
        return Finding(Event.REVIEW, "cannot_be_found")

    async def by_identifier(self, item: Item) -> list[Resource] | None:
        """The resources that bear the item's key; None: the server's search cannot be believed.

        A server that does not know the parameter may answer with everything: what does not bear the identifier was not
        searched for.
        """
        key = key_of(item)
        found = await self._ehr.search(item.resource_type, [("identifier", token(self._system, key))])
        return found if all(bears(r, self._system, key) for r in found) else None

    async def compare(self, item: Item, found: Resource) -> Finding:
        """``found`` bears our identifier: does it, or did it once, say what we wrote?"""
        if same_content(item.payload, found):
            return Finding(Event.CONFIRM, "found", "reconciled", Standing(found, None))
        for version in await self._history(found["resourceType"], found["id"]) or ():
            if same_content(item.payload, version):
                return Finding(Event.CONFIRM, "found_in_history", "reconciled", Standing(version, None))
        return Finding(Event.REVIEW, "differs_from_ours", evidence={"resources": _names([found])})

    async def _superseded(self, item: Item) -> Finding:
        """A document that takes the place of another is there or not; the one before says nothing about it."""
        found = await self.by_identifier(item)
        if found is None:
            return Finding(Event.REVIEW, "search_unreliable")
        if len(found) > 1:
            return Finding(Event.REVIEW, "several_matches", evidence={"resources": _names(found)})
        assert item.link is not None
        whole = replace(item, payload=successor(item, item.link, self._system))
        return replace(await self.compare(whole, found[0]), outcome="updated") if found else ABSENT

    async def read_back(self, item: Item, standing: Standing) -> Standing | None:
        """``standing`` as the EHR shows it now; None: it could not be read."""
        kind, resource_id = standing.resource["resourceType"], standing.resource["id"]
        try:
            answer = await self._ehr.read(kind, resource_id, request_id=str(item.record_id))
        except (TargetError, NoAnswer):
            return None
        found = answer.resource()
        if answer.status != 200 or found is None or (found["resourceType"], found.get("id")) != (kind, resource_id):
            return None
        return replace(standing, resource=found, etag=answer.headers.get("etag", standing.etag))

    async def _updated(self, item: Item, link: Link) -> Finding:
        now = await self._ehr.read(link.resource_type, link.resource_id, request_id=str(item.record_id))
        plan = self._adapter.plan(item, ChartFacts(current=now))
        if isinstance(plan, Settled):
            return Finding(Event.CONFIRM, "found", plan.outcome, plan.standing)
        if isinstance(plan, Halt) and plan.event is Event.RETRY:
            return Finding(Event.LOSE, f"look_{plan.reason}")
        if isinstance(plan, WirePlan) and _version(now) == link.version_id:
            return ABSENT
        # Somebody changed it: before our write, or after it, and back perhaps? Its history knows.
        versions = await self._history(link.resource_type, link.resource_id, after=link.version_id)
        for version in versions or ():
            then = self._adapter.plan(item, ChartFacts(current=Answer(200, {}, parsed=version)))
            if isinstance(then, Settled):
                return Finding(Event.CONFIRM, "found_in_history", "updated", then.standing)
        if isinstance(plan, Halt):
            return Finding(Event.REVIEW, plan.reason, evidence=plan.evidence, link_state=plan.link_state)
        if versions is None and item.now.unanswered:
            return Finding(Event.REVIEW, "history_unreadable")
        return ABSENT

    async def _history(self, resource_type: str, resource_id: str, *, after: str | None = None) -> list[Resource] | None:
        """Earlier versions, newest first, down to ``after`` (not with it); None where the server shows none."""
        bundle = (await self._ehr.read(resource_type, f"{resource_id}/_history")).resource()
        if bundle is None or bundle["resourceType"] != "Bundle":
            return None
        versions: list[Resource] = []
        for entry in dicts(bundle.get("entry")):
            resource = entry.get("resource")
            if not isinstance(resource, dict) or resource.get("id") != resource_id:
                continue
            if after is not None and (resource.get("meta") or {}).get("versionId") == after:
                break
            versions.append(resource)
        return versions


def _version(answer: Answer) -> str | None:
    return Standing(answer.resource() or {}, None).version_id


def _names(resources: list[Resource]) -> list[str]:
    return sorted(f"{r['resourceType']}/{r['id']}" for r in resources)
