"""A document is never edited: another content is another document, which says that it replaces the one before.

US Core, "Writing Clinical Notes": a note is superseded by a POST with ``relatesTo`` ``replaces``; what becomes of the one before
(its status ``superseded``) is the EHR's doing. Each of them bears an identifier of its own, the business key with the revision,
so that a create without an answer can be looked up like any other.
"""

from __future__ import annotations

from fhir_writeback_dagster.commit.protocol.identity import key_of_revision
from fhir_writeback_dagster.commit.protocol.model import Intent, Link
from fhir_writeback_dagster.rules.fhir.resource import Resource


def supersedes(item: Intent) -> bool:
    """Is ``item`` a document with another content than the one that we wrote last?"""
    if item.resource_type != "DocumentReference" or item.link is None:
        return False
    before = item.link.previous or item.link.base or {}
    return before.get("content") != item.payload.get("content")


def key_of(item: Intent) -> str:
    """The value of our identifier on the resource that ``item`` becomes."""
    return key_of_revision(item.business_key, item.revision) if supersedes(item) else item.business_key


def successor(item: Intent, link: Link, system: str) -> Resource:
    """The document that takes the place of the linked one."""
    others = [one for one in item.payload.get("identifier", ()) if one.get("system") != system]
    replaces = {"code": "replaces", "target": {"reference": f"{link.resource_type}/{link.resource_id}"}}
    return {
        **item.payload,
        "identifier": [*others, {"system": system, "value": key_of(item)}],
        "relatesTo": [*item.payload.get("relatesTo", ()), replaces],
    }
