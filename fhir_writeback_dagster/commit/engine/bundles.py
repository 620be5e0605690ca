"""Bundles: many conditional creates in one request, answered entry by entry.

The entries of a *batch* stand for themselves, so one bad entry spoils no other, and only those that failed go again. A
*transaction* is one commit on the server, and one bad entry refuses all; they then go again in halves, until that one is alone.
Each business key stands in a bundle once (a repeated one makes duplicates on some servers and an answer with fewer entries on
others).

Which answer is whose is read from the resource that it shows, never from its place: servers answer in another order, leave
entries out, or show another resource (microsoft/fhir-server PR 743, fhir-works-on-aws 594). An answer that shows none, such as a
refusal, is somebody's only if all that are left say the same. Whatever cannot be told is no answer, and is looked up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.commit.adapters.base import WirePlan
from fhir_writeback_dagster.commit.protocol.answer import Answer, dicts
from fhir_writeback_dagster.commit.protocol.headers import readable, status
from fhir_writeback_dagster.rules.fhir.natural_key import same_fact
from fhir_writeback_dagster.rules.fhir.resource import Resource

BundleType = Literal["batch", "transaction"]

_HEADERS = {"etag": "etag", "location": "location", "lastModified": "last-modified"}


def pack(kind: BundleType, plans: Sequence[WirePlan]) -> bytes:
    """The body of a bundle of ``plans``, each of which has an entry."""
    return canonicaljson.encode({"resourceType": "Bundle", "type": kind, "entry": [plan.entry for plan in plans]})


def answers(kind: BundleType, whole: Answer) -> list[Answer] | None:
    """The answers that a bundle's answer holds, as they come; None where it is none. An entry that is none is left out."""
    body = whole.resource()
    if body is None or body["resourceType"] != "Bundle" or body.get("type") != f"{kind}-response":
        return None
    entries = body.get("entry")
    return [answer for answer in map(_answer, entries) if answer] if isinstance(entries, list) else None


def _answer(entry: object) -> Answer | None:
    response = entry.get("response") if isinstance(entry, Mapping) else None
    code = status(response.get("status")) if isinstance(response, Mapping) else None
    if not isinstance(entry, Mapping) or not isinstance(response, Mapping) or code is None:
        return None
    resource = entry.get("resource")
    return Answer(
        code, readable(response, _HEADERS), parsed=resource if resource is not None else response.get("outcome"), inner=True
    )


def assign(plans: Sequence[WirePlan], given: Sequence[Answer]) -> list[Answer | None]:
    """The answer to each of ``plans``; None where nobody can tell which it is."""
    by_key = {plan.identity.key: place for place, plan in enumerate(plans)}
    claims: dict[int, list[Answer]] = defaultdict(list)
    nameless, silent = [], []
    for answer in given:
        resource = answer.shown()
        place = None if resource is None else _whose(plans, by_key, resource)
        if resource is None:
            silent.append(answer)
        elif place is None:
            nameless.append(answer)
        else:
            claims[place].append(answer)
    found = {place: claimed[0] for place, claimed in claims.items() if len({_id(answer) for answer in claimed}) == 1}
    for place, plan in enumerate(plans):
        possible = [one for one in nameless if one.status < 300 and plan.identity.against(one.shown() or {}) is None]
        if possible and place not in claims:
            # Something of this patient was stored; which of the writes it is, nobody can tell.
            found[place] = Answer(possible[0].status, inner=True)
    left = [place for place in range(len(plans)) if place not in claims and place not in found]
    if len(silent) == len(left) and len({(one.status, one.codes()) for one in silent}) == 1:
        found.update(zip(left, silent, strict=True))
    return [found.get(place) for place in range(len(plans))]


def _whose(plans: Sequence[WirePlan], by_key: Mapping[str, int], resource: Resource) -> int | None:
    """The plan that ``resource`` is of: whose key and patient it bears; where it bears none, the only one whose fact it tells."""
    keys = [one.get("value") for one in dicts(resource.get("identifier")) if one.get("system") == plans[0].identity.system]
    if keys:
        places = [by_key[key] for key in keys if isinstance(key, str) and key in by_key]
        return next((place for place in places if plans[place].identity.proved_by(resource)), None)
    try:
        telling = [
            place
            for place, plan in enumerate(plans)
            if plan.identity.against(resource) is None and same_fact(plan.expected, resource)
        ]
    except (AttributeError, LookupError, TypeError, ValueError):  # it is not shaped as R4 says, and tells of no fact
        return None
    return telling[0] if len(telling) == 1 else None


def _id(answer: Answer) -> object:
    return (answer.shown() or {}).get("id")
