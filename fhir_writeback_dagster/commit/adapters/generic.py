"""Every EHR that is written in FHIR R4: the create and the update that its matrix and CapabilityStatement allow."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.commit.adapters.base import ChartFacts, Halt, Locators, NotNow, Plan, WirePlan
from fhir_writeback_dagster.commit.adapters.guards import stranger, tests_of_identity, unmodified_since
from fhir_writeback_dagster.commit.adapters.search import if_none_exist
from fhir_writeback_dagster.commit.adapters.superseding import key_of, successor, supersedes
from fhir_writeback_dagster.commit.adapters.three_way_merge import in_error, merge
from fhir_writeback_dagster.commit.adapters.vendor_errors import interpret
from fhir_writeback_dagster.commit.fhir_client import FHIR_JSON
from fhir_writeback_dagster.commit.protocol.answer import Answer, dicts
from fhir_writeback_dagster.commit.protocol.changes import Refuse, Review, Settled, Supersede
from fhir_writeback_dagster.commit.protocol.error_classes import MISSING, ErrorClass, Recovery, classify
from fhir_writeback_dagster.commit.protocol.identity import ResourceIdentity, bears
from fhir_writeback_dagster.commit.protocol.model import Intent, Link, Standing
from fhir_writeback_dagster.rules.fhir.content import difference, same_content
from fhir_writeback_dagster.rules.fhir.natural_key import natural_key
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.rules.fhir.resource_url import is_id
from fhir_writeback_dagster.rules.target.capabilities import NOT_READ, TOO_LARGE, Target

JSON_PATCH = "application/json-patch+json"
_REPEATED = ErrorClass("existed", Recovery.COMPARE)
_RETURN = {"Prefer": "return=representation"}


class Generic:
    """The adapter for every EHR that is written in FHIR: what differs between them is in the matrix.

    ``system`` is the tenant's own identifier system.
    """

    def __init__(self, target: Target, system: str) -> None:
        self._target, self._system = target, system

    @property
    def capabilities(self) -> Target:
        return self._target

    def needs_chart(self, item: Intent) -> bool:
        return item.link is None and item.resource_type != "Patient"

    def needs_search(self, item: Intent) -> bool:
        guarded = self._target.create_precondition(item.resource_type) == "if_none_exist"
        return self.needs_chart(item) and not guarded and self.reconcile(item).identifier

    def needs_current(self, item: Intent) -> bool:
        link = item.link
        return link is not None and link.content_hash != item.content_hash and link.origin == "ours" and link.state == "active"

    def reconcile(self, item: Intent) -> Locators:
        return Locators(
            identifier=self._target.vendor.create.keeps_identifier.value is not False,
            natural_key=natural_key(item.payload) is not None,
        )

    def interpret(self, plan: WirePlan, answer: Answer) -> ErrorClass:
        if plan.precondition == "idempotency_key" and answer.status == 409 and self.recognise(plan, answer) is not None:
            return _REPEATED
        return interpret(self._target.vendor, plan.request, answer)

    def plan(self, item: Intent, facts: ChartFacts) -> Plan:
        if item.resource_type == "Patient":
            # Patients are never created, and a change of demographics is a person's to make until that way is built.
            return Review("changes_patient")
        if item.link is None:
            return Supersede("nothing_to_retract") if in_error(item.payload) else self._create(item, facts)
        if item.link.state != "active" and in_error(item.payload):
            return Settled("suppressed", f"{item.link.state}_in_ehr", _as_linked(item.link))
        if item.link.state != "active":
            return Review(f"{item.link.state}_in_ehr")
        if item.link.content_hash == item.content_hash:
            return Settled("suppressed", "content_unchanged", _as_linked(item.link))
        if item.link.origin == "foreign":
            return Review("foreign_owned")
        return self._update(item, item.link, facts.current)

    def _create(self, item: Intent, facts: ChartFacts) -> Plan:
        if refusal := self._target.refusal(item.resource_type, "create", item.payload):
            return _refused(refusal)
        keeps = self._target.vendor.create.keeps_identifier.value
        return known_already(item, facts, self._system, keeps_identifier=keeps) or self.create_request(item)

    def identity(self, item: Intent) -> ResourceIdentity:
        if item.link is None or _is_successor(item):
            return ResourceIdentity(self._system, key_of(item), item.resource_type, item.patient_id)
        return ResourceIdentity(self._system, item.business_key, item.resource_type, item.patient_id, item.link.resource_id)

    def create_request(self, item: Intent) -> WirePlan | Halt:
        """The create, with the strongest precondition that the target has."""
        precondition = self._target.create_precondition(item.resource_type)
        headers = {"Content-Type": FHIR_JSON, **_RETURN}
        request: dict[str, Any] = {"method": "POST", "url": item.resource_type}
        if precondition == "if_none_exist":
            headers["If-None-Exist"] = request["ifNoneExist"] = if_none_exist(self._system, key_of(item))
        elif precondition == "idempotency_key":
            headers[self._target.vendor.create.idempotency_header.get("Idempotency-Key")] = _key_of_fact(self._system, item)
        # A repeat is harmless where a precondition stands; only there may a lost race simply be tried again.
        return WirePlan(
            request="conditional_create" if precondition == "if_none_exist" else "create",
            verb="create",
            precondition=precondition,
            method="POST",
            path=item.resource_type,
            headers=headers,
            body=canonicaljson.encode(item.payload),
            expected=item.payload,
            identity=self.identity(item),
            entry=None if precondition == "idempotency_key" else {"resource": item.payload, "request": request},
        )

    def _update(self, item: Intent, link: Link, answer: Answer | None) -> Plan:
        """The smallest change to what stands there, provided that it is what we left there."""
        if answer is None:
            raise RuntimeError("an update is planned without the current resource")
        outcome = classify("update", answer)
        if gone := _gone(item, answer):
            return gone
        current = answer.resource()
        if outcome.recovery is not Recovery.CONFIRM or current is None:
            return NotNow(outcome.code if outcome.recovery is not Recovery.CONFIRM else "odd_answer")
        if reason := stranger(item, link, current, self.identity(item)):
            return Review(reason, {"resources": [f"{link.resource_type}/{link.resource_id}"]})
        if in_error(current) and not in_error(item.payload):
            return Review("retracted_in_ehr", undone="retracted")
        merged = merge(link, current, self._as_kept(item.payload, current))
        wanted = merged.wanted
        patch = difference(current, wanted)
        standing = Standing(current, answer.etag(), theirs=merged.theirs)
        if not patch:
            return Settled("updated" if item.sends else "suppressed", "chart_has_same", standing)
        if merged.conflicts:
            return Review("clinician_edited", {"elements": list(merged.conflicts)})
        if _is_successor(item):
            return self._supersede(item, link)
        form = self._target.update_form(link.resource_type)
        if refusal := self._target.refusal(link.resource_type, "update"):
            return _refused(refusal)
        guard = self._guard(answer)
        if isinstance(guard, Halt):
            return guard
        body = [*tests_of_identity(current, self._system), *patch] if form == "patch" else wanted
        if not self._target.takes(body):
            return _refused(TOO_LARGE)
        return WirePlan(
            request="update",
            verb="update",
            precondition="if_match" if "If-Match" in guard else "if_unmodified_since",
            method="PATCH" if form == "patch" else "PUT",
            path=f"{link.resource_type}/{link.resource_id}",
            headers={"Content-Type": JSON_PATCH if form == "patch" else FHIR_JSON, **guard, **_RETURN},
            body=canonicaljson.encode(body),
            expected=wanted,
            identity=self.identity(item),
            theirs=merged.theirs,
        )

    def _supersede(self, item: Intent, link: Link) -> Plan:
        """A create of the successor; where nothing guards it against a repeat, a person does it."""
        payload = successor(item, link, self._system)
        if refusal := self._target.refusal(item.resource_type, "create", payload):
            return _refused(refusal)
        plan = self.create_request(replace(item, payload=payload))
        if isinstance(plan, Halt) or plan.precondition == "search":
            return Review("supersede_unguarded")
        return plan

    def _as_kept(self, payload: Resource, current: Resource) -> Resource:
        """``payload`` without the identifier that the target drops: laying it over again and again would change nothing."""
        if self._target.vendor.create.keeps_identifier.value is not False or bears(current, self._system):
            return payload
        others = [one for one in dicts(payload.get("identifier")) if one.get("system") != self._system]
        rest = {name: value for name, value in payload.items() if name != "identifier"}
        return {**rest, "identifier": others} if others else rest

    def _guard(self, answer: Answer) -> dict[str, str] | Halt:
        """The header that refuses the update where somebody was faster; without one a person decides."""
        precondition = self._target.vendor.update.precondition.value
        if precondition == "if_match":
            etag = answer.etag()
            return Review("no_etag") if etag is None else {"If-Match": etag}
        if precondition == "if_unmodified_since":
            return unmodified_since(answer)
        return Review("update_unguarded")

    def recognise(self, plan: WirePlan, answer: Answer) -> Standing | None:
        found, place = answer.resource(), answer.location()
        if found is None or plan.identity.against(found):
            return None
        if place and place != (found["resourceType"], found["id"]):
            return None
        # An EHR that drops our identifier shows ours without it; one that keeps it would show it on ours.
        nameless = self._target.vendor.create.keeps_identifier.value is not True and not bears(found, self._system)
        if not (plan.identity.proved_by(found) or plan.identity.resource_id or nameless):
            return None
        return Standing(found, answer.etag(), theirs=plan.theirs)

    def judge(self, plan: WirePlan, standing: Standing) -> bool:
        return same_content(plan.expected, standing.resource)


def known_already(item: Intent, facts: ChartFacts, system: str, *, keeps_identifier: bool | None) -> Settled | Halt | None:
    """What the chart holds of a fact that is to be created: ours already, or somebody else's; None: nothing.

    What was sent once may be there whatever was answered: an EHR, or what stands before it, says "not now" and has done it.
    """
    if facts.ours is None:
        return Review("search_unreliable")
    if len(facts.ours) > 1:
        return Review("several_matches", {"resources": _names(facts.ours)})
    # By its matrix it drops our identifier, and here it kept it.
    kept = [found for found in facts.alike if bears(found, system)] if keeps_identifier is False else []
    for found in (*facts.ours, *kept):
        if not same_content(item.payload, found):
            return Review("existed_differently", {"resources": _names([found])})
        return Settled("reconciled" if item.sends else "suppressed", "existed", Standing(found, None))
    return _told_by_others(item, [found for found in facts.alike if not bears(found, system)], keeps_identifier)


def _told_by_others(item: Intent, alike: Sequence[Resource], keeps_identifier: bool | None) -> Settled | Halt | None:
    """What resources that bear no key of ours say of the fact. What was sent to an EHR that drops our key is one of them."""
    for theirs in alike:
        if not same_content(item.payload, theirs) or in_error(theirs) or not is_id(theirs["id"]):
            continue
        if not item.sends or keeps_identifier:
            return Settled("suppressed", "chart_has_same", Standing(theirs, None, "foreign"))
        if keeps_identifier is None:
            return Review("perhaps_ours", {"resources": _names(alike)})
        return Settled("reconciled", "found_by_natural_key", Standing(theirs, None))
    if alike:
        retracted = all(in_error(theirs) for theirs in alike)
        return Review("chart_has_retracted" if retracted else "chart_has_other", {"resources": _names(alike)})
    return None


def _gone(item: Intent, answer: Answer) -> NotNow | Review | None:
    """Is what we wrote deleted? A 410 says so; a 404 that is said again later does."""
    if answer.status == 404 and item.reason not in (MISSING, f"look_{MISSING}"):
        return NotNow(MISSING)
    return Review("deleted_in_ehr", undone="deleted") if answer.status in (404, 410) else None


def _is_successor(item: Intent) -> bool:
    """Does it become a new document, which says that it replaces the linked one?"""
    return supersedes(item) and not in_error(item.payload)


def _refused(refusal: str) -> Halt:
    """What the target does not take: never, not without a person, or not before its CapabilityStatement is read."""
    if refusal == NOT_READ:
        return NotNow(refusal)
    return Review(refusal) if refusal == "target_cannot_update" else Refuse(refusal)


def _key_of_fact(system: str, item: Intent) -> str:
    """A UUID that is the same whenever a resource of this fact is created, whatever its revision says: the server then refuses
    the next revision's create where a late one of an earlier revision was faster, and the other way round.
    """
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{system}|{key_of(item)}"))


def _names(resources: Iterable[Resource]) -> list[str]:
    return sorted(f"{r['resourceType']}/{r['id']}" for r in resources)


def _as_linked(link: Link) -> Standing:
    base = link.base or {"resourceType": link.resource_type, "id": link.resource_id, "meta": {"versionId": link.version_id}}
    return Standing(base, link.etag, link.origin)
