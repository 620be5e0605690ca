"""Bundles: many conditional creates in one request, answered entry by entry.

The entries of a *batch* stand for themselves, so one bad entry spoils no other, and only those that failed go again. A
*transaction* is one commit on the server, and one bad entry refuses all; they then go again in halves, until that one is alone.
Each business key stands in a bundle once (a repeated one makes duplicates on some servers and an answer with fewer entries on
others), and an answer counts only if it matches the request by number, order and type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.commit.adapters.base import WirePlan
from fhir_writeback_dagster.commit.protocol.answer import Answer

BundleType = Literal["batch", "transaction"]

_HEADERS = {"etag": "etag", "location": "location", "lastModified": "last-modified"}


def pack(kind: BundleType, plans: Sequence[WirePlan]) -> bytes:
    """The body of a bundle of ``plans``, each of which has an entry."""
    return canonicaljson.encode({"resourceType": "Bundle", "type": kind, "entry": [plan.entry for plan in plans]})


def unpack(kind: BundleType, plans: Sequence[WirePlan], answer: Answer) -> list[Answer] | None:
    """The answer to each of ``plans``; None where it cannot be told which answer is whose."""
    body = answer.resource()
    if body is None or body["resourceType"] != "Bundle" or body.get("type") != f"{kind}-response":
        return None
    entries = body.get("entry")
    if not isinstance(entries, list) or len(entries) != len(plans):
        return None
    answers = [_answer(plan, entry) for plan, entry in zip(plans, entries, strict=True)]
    return None if any(one is None for one in answers) else [one for one in answers if one is not None]


def _answer(plan: WirePlan, entry: object) -> Answer | None:
    response = entry.get("response") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(response, dict):
        return None
    status = str(response.get("status", ""))[:3]
    if not status.isdigit():
        return None
    resource: Any = entry.get("resource")
    ours = plan.expected["resourceType"]
    location = response.get("location")
    if isinstance(location, str) and f"{ours}/" not in location:
        return None
    if int(status) < 300 and isinstance(resource, dict) and resource.get("resourceType") not in (ours, "OperationOutcome"):
        return None
    headers = {name: response[key] for key, name in _HEADERS.items() if isinstance(response.get(key), str)}
    return Answer(int(status), headers, parsed=resource if resource is not None else response.get("outcome"))
