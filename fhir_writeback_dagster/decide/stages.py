"""What decide knows of a record after each step: ``Loaded → Matched → Identified → Mapped → Ruled → Placed``, and the end.

Every stage is frozen and holds the stages before it, so that a later step cannot change what an earlier one found, and a step can
only be given what it needs. A record that ends at any stage becomes a :class:`Decision`.
"""

from __future__ import annotations

from collections.abc import Mapping as AbstractMapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from fhir_writeback_dagster.canonical import CanonicalRecord
from fhir_writeback_dagster.decide.mapping.versions import Mapping
from fhir_writeback_dagster.decide.matching.model import EncounterMatch, Match
from fhir_writeback_dagster.decide.validation.issues import Issue
from fhir_writeback_dagster.rules.fhir.codes import SystemCode
from fhir_writeback_dagster.rules.fhir.resource import Resource


@dataclass(frozen=True, slots=True)
class Reason:
    """One ground of a verdict: which layer said it, a code, and a path or policy id; never a value."""

    layer: Literal["semantic", "consent", "policy", "mode", "match", "target"]
    code: str
    path: str | None = None

    def to_json(self) -> dict[str, str]:
        return {"layer": self.layer, "code": self.code} | ({"path": self.path} if self.path else {})


@dataclass(frozen=True, slots=True)
class Ruling:
    """The verdict with its grounds, the deciding one first."""

    outcome: Literal["automatic", "review", "denied", "not_written"]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """One canonical record that waits for its decision, as it was read from the database."""

    candidate_id: UUID
    record_id: UUID
    extract_id: UUID
    source: str
    source_version: int
    suite: str | None
    """SHA-256 in hex of the expectation suite that the record passed."""
    kind: str
    source_record: bytes
    """The HMAC of the identity of the source's row."""
    former_records: tuple[bytes, ...]
    """The same under older generations of the identity key, newest first."""
    as_of: datetime | None
    record: CanonicalRecord
    data: dict[str, Any]
    input_hash: bytes
    give_up_at: datetime
    again: bool = False
    """The record has a candidate already: it waited, or commit gave it back."""
    held_key: str | None = None
    held_revision: int | None = None
    """Business key and revision that its candidate holds from an earlier round."""


@dataclass(frozen=True, slots=True)
class Matched:
    """The record's patient, and its encounter if it has one."""

    row: Loaded
    mapping: Mapping
    patient_id: str
    match: Match
    encounter: EncounterMatch

    @property
    def stands_in(self) -> bool:
        """The encounter was found by the row's time, because the encounter number that the row names never came."""
        return self.encounter.by_time and bool(self.row.record.encounter)

    @property
    def evidence(self) -> dict[str, Any]:
        """Codes and counts of the matching, never a value."""
        return evidence_of(self.match, self.encounter)


@dataclass(frozen=True, slots=True)
class Identified:
    """What the record is about: its patient's person and the business key of its fact."""

    row: Loaded
    matched: Matched
    person: str
    keys: tuple[str, ...]
    """Every business key that the fact may be known by."""
    business_key: str


@dataclass(frozen=True, slots=True)
class Mapped:
    """The record as a FHIR resource, validated."""

    row: Loaded
    matched: Matched
    identified: Identified
    payload: Resource
    codings: tuple[SystemCode, ...]
    """All codes in the payload."""
    labels: tuple[SystemCode, ...]
    """The security labels of the payload."""
    content_hash: bytes
    issues: tuple[Issue, ...]
    """What validation found; only warnings, unless the record ended there."""

    @property
    def mapping(self) -> Mapping:
        return self.matched.mapping

    @property
    def business_key(self) -> str:
        return self.identified.business_key


@dataclass(frozen=True, slots=True)
class Ruled:
    """The mapped record with its ruling, the versions that it was made on, and what consent and policy were asked."""

    mapped: Mapped
    ruling: Ruling
    versions: AbstractMapping[str, Any]
    context: AbstractMapping[str, Any]
    """What consent and policy were asked, for the re-check before a send; it is stored sealed."""


@dataclass(frozen=True, slots=True)
class Placed:
    """The ruled record at its place among the revisions of its fact."""

    ruled: Ruled
    revision: int | None
    accepted: bool
    """The record is a new revision of its fact."""


Stage = Loaded | Matched | Identified | Mapped | Ruled | Placed


@dataclass(frozen=True, slots=True)
class Decision:
    """What a record came to, with every stage that it reached; ``path`` leads to what was wrong with the record."""

    row: Loaded
    state: str
    reason: str | None
    path: str | None = None
    match: Match | None = None
    """Also of a record that the match sent to a person or made wait."""
    encounter: EncounterMatch | None = None
    mapping: Mapping | None = None
    matched: Matched | None = None
    identified: Identified | None = None
    mapped: Mapped | None = None
    ruled: Ruled | None = None
    revision: int | None = None
    accepted: bool = False
    verdict_id: UUID | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


def ended(stage: Stage, state: str, reason: str | None, path: str | None = None, **more: Any) -> Decision:
    """The decision on a record that ends at ``stage``.

    :param more: further fields of the :class:`Decision`; ``evidence`` is added to that of the match.
    """
    placed = stage if isinstance(stage, Placed) else None
    ruled = placed.ruled if placed else stage if isinstance(stage, Ruled) else None
    mapped = ruled.mapped if ruled else stage if isinstance(stage, Mapped) else None
    identified = mapped.identified if mapped else stage if isinstance(stage, Identified) else None
    matched = identified.matched if identified else stage if isinstance(stage, Matched) else None
    found: dict[str, Any] = {"matched": matched, "identified": identified, "mapped": mapped, "ruled": ruled}
    if matched is not None:
        found |= {"match": matched.match, "encounter": matched.encounter, "mapping": matched.mapping}
    if placed is not None:
        found |= {"revision": placed.revision, "accepted": placed.accepted}
    evidence = (matched.evidence if matched else {}) | more.pop("evidence", {})
    row = matched.row if matched else stage
    assert isinstance(row, Loaded)
    return Decision(row, state, reason, path, **{**found, **more, "evidence": evidence})


def evidence_of(match: Match, encounter: EncounterMatch | None = None) -> dict[str, Any]:
    """What a reviewer is shown of a match: codes and counts, never a value."""
    return {"match": dict(match.evidence)} | ({"encounter": {"by": "time"}} if encounter and encounter.by_time else {})
