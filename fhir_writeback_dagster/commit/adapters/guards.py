"""What stands between an update and somebody else's resource: what was read, and what the request itself demands.

No update goes to a resource that is another patient's or bears another business key of ours, whatever a link says.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fhir_writeback_dagster.commit.adapters.base import NotNow
from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.commit.protocol.changes import Review
from fhir_writeback_dagster.commit.protocol.foreign_json import is_damaged
from fhir_writeback_dagster.commit.protocol.headers import http_date
from fhir_writeback_dagster.commit.protocol.identity import ResourceIdentity, bears
from fhir_writeback_dagster.commit.protocol.model import Intent, Link
from fhir_writeback_dagster.rules.fhir.natural_key import natural_key
from fhir_writeback_dagster.rules.fhir.resource import Resource

MODIFIED_JUST_NOW = "modified_just_now"
_STRONG_AFTER = timedelta(seconds=1)
"""So long after Last-Modified the server has to be: before, another change could bear the same time (RFC 9110, 8.8.2.2)."""


def stranger(item: Intent, link: Link, current: Resource, identity: ResourceIdentity) -> str | None:
    """Why what stands there is not what ``item`` may change, whatever the link says; None: it is.

    One without our identifier has to tell of the fact that we wrote there last, or write now. What could be read in part only is
    not written over.
    """
    if is_damaged(current):
        return "odd_answer"
    if (current["resourceType"], current.get("id")) != (link.resource_type, link.resource_id):
        return "another_resource"
    if reason := identity.against(current):
        return reason
    if bears(current, identity.system):
        return None
    facts = [natural_key(one) for one in (link.previous, item.payload) if one]
    return None if natural_key(current) in facts else "another_fact"


def tests_of_identity(current: Resource, system: str) -> list[dict[str, Any]]:
    """By them a JSON Patch fails on what is another patient's by then, or bears another key, also where If-Match is ignored."""
    whose = next(name for name in ("subject", "patient") if name in current)
    tested = {f"/{whose}/reference": current[whose]["reference"]}
    for place, one in enumerate(current.get("identifier", ())):
        if one.get("system") == system:
            tested[f"/identifier/{place}/value"] = one["value"]
    return [{"op": "test", "path": path, "value": value} for path, value in tested.items()]


def unmodified_since(answer: Answer) -> dict[str, str] | NotNow | Review:
    """The guard by time, which guards only what is older than a second by the server's own clock."""
    changed, now = http_date(answer.headers.get("last-modified", "")), answer.date()
    if changed is None or now is None:
        return Review("no_last_modified" if changed is None else "no_date")
    if now - changed < _STRONG_AFTER:
        return NotNow(MODIFIED_JUST_NOW)
    return {"If-Unmodified-Since": answer.headers["last-modified"]}
