"""What the engine holds about one intent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from fhir_writeback_dagster.commit.protocol.transitions import IntentState
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.rules.fhir.resource_url import Named

_VERSION = re.compile(r"[!-~]{1,200}")
"""R4 has it as an id; servers that make longer ones are taken at their word, as long as it is one."""


@dataclass(frozen=True, slots=True)
class Link:
    """The resource in the EHR that a business key stands for. ``base`` is the resource as our writes left it, without
    what others changed since.
    """

    resource_type: str
    resource_id: str
    version_id: str | None
    etag: str | None
    origin: str
    owner_source: str
    revision: int
    content_hash: bytes
    state: str
    base: Resource | None = None
    previous: Resource | None = None
    """The payload that was written last; None where it is shredded."""


Claim = tuple[UUID, int]
"""An intent and the fence that a worker holds it under."""


@dataclass(slots=True)
class Intent:
    """A claimed intent; ``now`` moves on as the ledger writes it."""

    intent_id: UUID
    now: IntentState
    business_key: str
    revision: int
    candidate_id: UUID
    verdict_id: UUID
    record_id: UUID
    source: str
    kind: str
    resource_type: str
    patient_id: str
    encounter_id: str | None
    content_hash: bytes
    reason: str | None
    """Why it is where it was found: the last class of the taxonomy."""
    sends: int
    sent_at: datetime | None
    """When it was sent last."""
    payload: Resource
    """Empty where it cannot be opened any more: then the intent goes nowhere."""
    refused_since: datetime | None = None
    """Since when the reads that it needs failed each time; None: the last one did not."""
    must_keep: frozenset[str] | None = None
    """The elements that its mapping wants to survive the EHR; None: all of them."""
    link: Link | None = None
    outcomes: tuple[str | None, ...] = ()
    """Classes of its attempts so far; None: nobody ever heard of one again."""
    located: tuple[Named, ...] = ()
    """What the target said that it became, and nobody has seen yet."""

    @property
    def claim(self) -> Claim:
        return self.intent_id, self.now.fence


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request on the wire for one intent. ``answer`` is kept, sealed, for what did not succeed."""

    attempt_id: UUID
    verb: str
    precondition: str
    request_id: str
    status: int | None = None
    outcome: str | None = None
    answer: bytes = b""
    ehr_request_id: str | None = None
    """The EHR's own name of the request, for its support; where the matrix says that it has one."""
    located: str | None = None
    """``Observation/1``: what Location named, where it could not be seen."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A resource as it stands in the EHR, recognised as what an intent is about."""

    resource: Resource
    etag: str | None
    origin: str = "ours"
    theirs: frozenset[str] = frozenset()
    """Elements that others changed: they stay theirs in the link's base."""

    @property
    def version_id(self) -> str | None:
        meta = self.resource.get("meta")
        version = meta.get("versionId") if isinstance(meta, dict) else None
        return version if isinstance(version, str) and _VERSION.fullmatch(version) else None
