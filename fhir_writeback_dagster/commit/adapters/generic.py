"""FHIR R4 as it is written: conditional create, JSON Patch with ``If-Match``, ETags, JSON answers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.commit.adapters.search import if_none_exist
from fhir_writeback_dagster.commit.answer import Answer, dicts
from fhir_writeback_dagster.commit.client import FHIR_JSON
from fhir_writeback_dagster.commit.model import Item, Link, Resource, Standing
from fhir_writeback_dagster.commit.plan import ChartFacts, Halt, Plan, Settled, WirePlan
from fhir_writeback_dagster.commit.protocol import Event
from fhir_writeback_dagster.commit.taxonomy import Recovery, classify
from fhir_writeback_dagster.rules.content import as_correction, difference, laid_over, same_content

JSON_PATCH = "application/json-patch+json"
_LOCATION = re.compile(r"(?:^|/)(?P<type>[A-Z][A-Za-z]+)/(?P<id>[A-Za-z0-9.-]{1,64})(?:/_history/(?P<version>[^/]+))?$")
_FINISHED = frozenset({"final", "amended", "corrected"})
_RETURN = {"Prefer": "return=representation"}


class Generic:
    """The adapter for a server that keeps to R4. ``system`` is the tenant's own identifier system."""

    def __init__(self, system: str) -> None:
        self._system = system

    def needs_chart(self, item: Item) -> bool:
        return item.link is None and item.resource_type != "Patient"

    def needs_current(self, item: Item) -> bool:
        link = item.link
        return link is not None and link.content_hash != item.content_hash and link.origin == "ours" and link.state == "active"

    def plan(self, item: Item, facts: ChartFacts) -> Plan:
        if item.resource_type == "Patient":
            # Patients are never created, and a change of demographics is a person's to make until that way is built.
            return Halt(Event.REVIEW, "changes_patient")
        if item.link is None:
            return self._create(item, facts)
        if item.link.state != "active":
            return Halt(Event.REVIEW, f"{item.link.state}_in_ehr")
        if item.link.content_hash == item.content_hash:
            return Settled("suppressed", "content_unchanged", _as_linked(item.link))
        if item.link.origin == "foreign":
            return Halt(Event.REVIEW, "foreign_owned")
        return self._update(item, item.link, facts.current)

    def _create(self, item: Item, facts: ChartFacts) -> Plan:
        for theirs in facts.alike:
            if same_content(item.payload, theirs) and not _in_error(theirs):
                return Settled("suppressed", "chart_has_same", Standing(theirs, None, "foreign"))
        if facts.alike:
            retracted = all(_in_error(theirs) for theirs in facts.alike)
            reason = "chart_has_retracted" if retracted else "chart_has_other"
            return Halt(Event.REVIEW, reason, {"resources": sorted(f"{r['resourceType']}/{r['id']}" for r in facts.alike)})
        condition = if_none_exist(self._system, item.business_key)
        return WirePlan(
            request="conditional_create",
            verb="create",
            precondition="if_none_exist",
            method="POST",
            path=item.resource_type,
            headers={"Content-Type": FHIR_JSON, "If-None-Exist": condition, **_RETURN},
            body=canonicaljson.encode(item.payload),
            expected=item.payload,
            entry={
                "resource": item.payload,
                "request": {"method": "POST", "url": item.resource_type, "ifNoneExist": condition},
            },
        )

    def _update(self, item: Item, link: Link, answer: Answer | None) -> Plan:
        """The smallest change to what stands there, provided that it is what we left there."""
        if answer is None:
            raise RuntimeError("an update is planned without the current resource")
        outcome = classify("update", answer)
        if answer.status in (404, 410):
            return Halt(Event.REVIEW, "deleted_in_ehr", link_state="deleted")
        current = answer.resource()
        if outcome.recovery is not Recovery.CONFIRM or current is None:
            return Halt(Event.RETRY, outcome.code if outcome.recovery is not Recovery.CONFIRM else "odd_answer")
        if (current["resourceType"], current.get("id")) != (link.resource_type, link.resource_id):
            return Halt(Event.REVIEW, "odd_answer")
        if _in_error(current) and not _in_error(item.payload):
            return Halt(Event.REVIEW, "retracted_in_ehr", link_state="retracted")
        wanted = corrected(current, link.previous, item.payload)
        patch = difference(current, wanted)
        standing = Standing(current, answer.headers.get("etag"))
        if not patch:
            return Settled("updated" if item.now.unanswered else "suppressed", "chart_has_same", standing)
        if edited := edited_elements(link, current):
            return Halt(Event.REVIEW, "clinician_edited", {"elements": edited})
        if standing.etag is None:
            return Halt(Event.REVIEW, "no_etag")
        return WirePlan(
            request="update",
            verb="update",
            precondition="if_match",
            method="PATCH",
            path=f"{link.resource_type}/{link.resource_id}",
            headers={"Content-Type": JSON_PATCH, "If-Match": standing.etag, **_RETURN},
            body=canonicaljson.encode(patch),
            expected=wanted,
        )

    def recognise(self, plan: WirePlan, answer: Answer) -> Standing | None:
        found = answer.resource()
        if found is None or found["resourceType"] != plan.expected["resourceType"] or not isinstance(found.get("id"), str):
            return None
        location = _LOCATION.search(answer.headers.get("location", ""))
        if location and location["id"] != found["id"]:
            return None
        return Standing(found, answer.headers.get("etag"))

    def judge(self, plan: WirePlan, standing: Standing) -> bool:
        return same_content(plan.expected, standing.resource)


def corrected(current: Resource, previous: Resource | None, payload: Resource) -> Resource:
    """``current`` with what ``payload`` says laid over it; an Observation whose value changes becomes ``corrected``.

    A finished Observation otherwise keeps the status that it has in the chart: ours says ``final`` for ever, and the chart's
    ``corrected`` of an earlier change must not be taken back.
    """
    finished = payload.get("status") in _FINISHED and current.get("status") in _FINISHED
    if current["resourceType"] != "Observation" or not finished:
        return laid_over(current, payload, previous)
    wanted = laid_over(current, {**payload, "status": current["status"]}, previous)
    return wanted if _value_of(wanted) == _value_of(current) else laid_over(current, as_correction(payload), previous)


def edited_elements(link: Link, current: Resource) -> list[str]:
    """Top-level elements that differ between what our last write left and what stands there now; ``["*"]``: cannot be told."""
    version = (current.get("meta") or {}).get("versionId")
    if link.version_id is not None and version == link.version_id:
        return []
    if link.base is None:
        return ["*"]
    names = (set(link.base) | set(current)) - {"meta", "text"}
    return sorted(name for name in names if link.base.get(name) != current.get(name))


def bears(resource: Resource, system: str, value: str | None = None) -> bool:
    """Has ``resource`` an identifier of ``system`` (and with ``value``)?"""
    return any(
        one.get("system") == system and (value is None or one.get("value") == value) for one in dicts(resource.get("identifier"))
    )


def _as_linked(link: Link) -> Standing:
    base = link.base or {"resourceType": link.resource_type, "id": link.resource_id, "meta": {"versionId": link.version_id}}
    return Standing(base, link.etag, link.origin)


def _in_error(resource: Resource) -> bool:
    """Retracted, as each type of resource says it."""
    verification = resource.get("verificationStatus")
    codings: Iterable[Any] = dicts(verification.get("coding")) if isinstance(verification, dict) else ()
    return resource.get("status") == "entered-in-error" or any(c.get("code") == "entered-in-error" for c in codings)


def _value_of(observation: Resource) -> dict[str, Any]:
    return {k: v for k, v in observation.items() if k.startswith("value") or k in ("component", "dataAbsentReason")}
