"""What matching answers with, and the mirrored patients that it answers from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from fhir_writeback_dagster.canonical import Identifier
from fhir_writeback_dagster.rules.fhir.resource_url import URI, ResourceUrl, parse
from fhir_writeback_dagster.rules.people.demographics import Demographics, identifier_key

#: Parts of an HMAC under which a chart knows patients: of an identifier, or of a demographic key.
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """Where a row belongs. ``patient_id`` is the EHR's id: the match, or the one candidate that a reviewer is asked about.

    ``matched_by`` is the mirror's HMAC of the identifier that hit, for the re-check before sending. After a merge it may be
    held by the replaced patient. ``reason`` is None for ``matched``; ``evidence`` holds codes and counts, never a value.
    """

    outcome: Literal["matched", "review", "waiting"]
    patient_id: str | None = None
    matched_by: bytes | None = None
    reason: str | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChartPatient:
    """A patient of the mirror; ``who`` is None where the sealed resource was not needed and so not opened."""

    active: bool
    deceased: bool
    replaced_by: str | None
    who: Demographics | None = None


class Chart(Protocol):
    """What matching asks of a chart: the mirror's in the pipeline, one in memory where thresholds are looked for.

    ``server`` is its EHR's, as :func:`~fhir_writeback_dagster.rules.fhir.resource_url.server_of` has it.
    """

    server: str | None

    def bearers(self, keys: Collection[Key]) -> Mapping[Key, Mapping[bytes, list[str]]]:
        """Each key's digests that somebody bears, with the patients' ids, sorted."""

    def patients(self, ids: Collection[str], compared: Collection[str]) -> Mapping[str, ChartPatient]:
        """The patients of ``ids`` with their survivors; ``who`` at least of ``compared`` and of merges."""

    def size(self) -> int:
        """How many patients it has."""


@dataclass(frozen=True, slots=True)
class EncounterMatch:
    """The encounter that a row names, ``none`` if it names none; ``status`` is R4's, times are UTC instants or None.

    ``by_time``: no number led there, the row's time did.
    """

    outcome: Literal["none", "matched", "review", "waiting"]
    encounter_id: str | None = None
    status: str | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    reason: str | None = None
    by_time: bool = False


def survivors(patient_id: str, patients: Mapping[str, ChartPatient]) -> list[str]:
    """``patient_id`` and whom merges replaced it by, to the end; a cycle ends at its smallest id, for all alike."""
    chain = [patient_id]
    while (patient := patients.get(chain[-1])) and (following := patient.replaced_by) is not None:
        if following in chain:
            chain.append(min(chain[chain.index(following) :]))
            break
        chain.append(following)
    return chain


def url_of(identifier: Identifier) -> ResourceUrl | None:
    """The resource that the identifier names by URL; None where it is another kind of identifier."""
    return parse(identifier.value) if identifier.system == URI else None


def contradicts(identifier: Identifier, patient_id: str, patient: ChartPatient, server: str | None) -> bool:
    """Does the chart of a patient of ``server`` say otherwise, by another value in the identifier's system?

    Of URLs, a patient has one on each server: another on the same one contradicts, one on an unknown server says nothing.
    """
    values = patient.who.identifiers if patient.who else {}
    url = url_of(identifier)
    if url is None:
        keys = {identifier_key(identifier.system, value) for value in values.get(identifier.system, (identifier.value,))}
        return identifier_key(identifier.system, identifier.value) not in keys
    known = {parse(value) for value in values.get(URI, ())}
    if server is not None:
        known.add(ResourceUrl(server, "Patient", patient_id))
    return url not in known and any(other is not None and other[:2] == url[:2] for other in known)
