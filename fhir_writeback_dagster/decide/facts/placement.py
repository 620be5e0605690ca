"""What is the same, what is newer, whose it is — the heart of exactly-once, as pure functions (design, section 4 "Identity").

A *person* is ours: named after the EHR patient when first seen, and never renamed. A *business key* says what a clinical fact
is: no mapping version and no hash of a file or row is in it, so the same fact delivered again, corrected or mapped anew meets
its own earlier self. *Revisions* are the accepted contents of a fact, in order.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal
from uuid import UUID

from fhir_writeback_dagster.store.sealing import Identity


def person_id(identity: Identity, tenant: str, target: str, patient_id: str) -> str:
    """Our name for the person whom the EHR called ``patient_id`` when we first saw them."""
    return _text(identity.digest("person", tenant, target, patient_id))


def business_keys(identity: Identity, tenant: str, kind: str, persons: Sequence[str], fields: Sequence[str]) -> list[str]:
    """Every key that this fact may be known by, the one to mint first: each alias of the person, each key generation.

    ``persons`` has the person first and then their aliases (merges); ``fields`` are the mapping's identity fields.
    """
    return [_text(digest) for person in persons for digest in identity.all("business-key", tenant, kind, person, *fields)]


def _text(digest: bytes) -> str:
    # Base32 without padding: a FHIR identifier that survives URLs, search syntax and case folding.
    return base64.b32encode(digest).decode().rstrip("=").lower()


@dataclass(frozen=True, slots=True)
class Revision:
    """One accepted content. ``void``: accepted, then denied or rejected before it was sent, so it counts for nothing."""

    number: int
    content_hash: bytes
    as_of: datetime | None
    mapping_version: int
    extract_id: UUID
    void: bool = False


@dataclass(frozen=True, slots=True)
class Fact:
    """A business key with its owner (the source accepted first) and its revisions, oldest first."""

    business_key: str
    owner: str
    revisions: tuple[Revision, ...] = field(default=())

    @property
    def latest(self) -> Revision | None:
        return next((r for r in reversed(self.revisions) if not r.void), None)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A mapped record that asks to be the fact's next revision."""

    source: str
    content_hash: bytes
    as_of: datetime | None
    mapping_version: int
    extract_id: UUID


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an incoming content stands among the fact's revisions; ``reason`` says why it is not simply the next one."""

    verdict: Literal["accept", "suppressed", "stale", "review"]
    reason: str | None = None


ACCEPT = Placement("accept")


def place(fact: Fact | None, incoming: Incoming, says_the_same: Callable[[], bool]) -> Placement:
    """Place ``incoming`` among the revisions of ``fact`` (None: nobody has told it before).

    ``says_the_same`` compares the incoming payload with the latest revision's clinically; it is asked only where two sources
    tell the same fact, because sources word the same content differently.
    """
    latest = fact.latest if fact else None
    if fact is None or latest is None:
        return ACCEPT
    if incoming.content_hash == latest.content_hash and incoming.source == fact.owner:
        return Placement("suppressed", "equal_to_latest")
    if incoming.source != fact.owner:
        if incoming.content_hash == latest.content_hash or says_the_same():
            return Placement("suppressed", "equal_from_other_source")
        return Placement("review", "owned_by_other_source")
    if incoming.as_of is not None and latest.as_of is not None:
        if incoming.as_of < latest.as_of:
            return Placement("stale", "older_as_of")
        if incoming.as_of == latest.as_of and incoming.mapping_version <= latest.mapping_version:
            return Placement("review", "same_as_of_differs")
        return ACCEPT
    # No declared order: arrival decides, but an old content that comes again is as likely an old file as a correction.
    if any(r.content_hash == incoming.content_hash for r in fact.revisions if not r.void):
        return Placement("review", "equal_to_earlier")
    if incoming.extract_id == latest.extract_id and incoming.mapping_version == latest.mapping_version:
        return Placement("review", "conflict_in_extract")
    return ACCEPT


def accept(fact: Fact | None, business_key: str, incoming: Incoming) -> Fact:
    """``fact`` with ``incoming`` as its newest revision; the first source accepted owns it."""
    fact = fact if fact and fact.latest else Fact(business_key, incoming.source, fact.revisions if fact else ())
    number = max((r.number for r in fact.revisions), default=0) + 1
    revision = Revision(number, incoming.content_hash, incoming.as_of, incoming.mapping_version, incoming.extract_id)
    return replace(fact, revisions=(*fact.revisions, revision))
