"""Whose row this is: identifiers looked up in the mirror, for a whole batch in two queries (design section 6.4).

Deterministic: one patient or nobody. What is unclear goes to a person, what is not there yet waits for the mirror; a match
on demographics alone is :mod:`decide.matching_probabilistic`'s business, and only where the tenant turns it on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from psycopg import Connection

from fhir_writeback_dagster.canonical import Identifier, PatientRef
from fhir_writeback_dagster.decide.matching_sql import ENCOUNTERS, PATIENT_HITS, PATIENTS
from fhir_writeback_dagster.rules import demographics
from fhir_writeback_dagster.rules.demographics import Demographics
from fhir_writeback_dagster.store.sealing import Identity
from fhir_writeback_dagster.workplace import Workplace

Outcome = Literal["matched", "review", "waiting"]


@dataclass(frozen=True, slots=True)
class Match:
    """Where a row belongs. ``patient_id`` is the EHR's id: the match, or the one candidate that a reviewer is asked about.

    ``matched_by`` is the mirror's HMAC of the identifier that hit, for the re-check before sending. After a merge it may be
    held by the replaced patient. ``reason`` is None for ``matched``; ``evidence`` holds codes and counts, never a value.
    """

    outcome: Outcome
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


def match_patients(connection: Connection[Any], w: Workplace, refs: Sequence[PatientRef]) -> list[Match]:
    """One :class:`Match` for each of ``refs``, in their order; equal refs are decided once."""
    distinct = list(dict.fromkeys(refs))
    digests = {i: digests_of(w.identity, i) for ref in distinct for i in ref.identifiers}
    scope = {"tenant": w.id, "target": w.tenant.ehr.target}
    every = [digest for tries in digests.values() for digest in tries]
    hits: dict[bytes, list[str]] = {}
    if every:
        for digest, patient in connection.execute(PATIENT_HITS, {**scope, "digests": every}):
            hits.setdefault(bytes(digest), []).append(patient)
    found = {ref: _found(ref, digests, hits) for ref in distinct}
    patients = _load(connection, w, found)
    decided = {ref: decide_match(ref, found[ref], patients) for ref in distinct}
    return [decided[ref] for ref in refs]


def digests_of(identity: Identity, identifier: Identifier) -> list[bytes]:
    """What the mirror may hold for this identifier: one HMAC a generation of the identity key; none for an empty value."""
    return identity.all("identifier", identifier.system, identifier.value) if identifier.value.strip() else []


@dataclass(frozen=True, slots=True)
class Hit:
    """An identifier of the row that the mirror holds for ``patient_id``, under ``digest``."""

    identifier: Identifier
    digest: bytes
    patient_id: str


def decide_match(ref: PatientRef, hits: Sequence[Hit], patients: Mapping[str, ChartPatient]) -> Match:
    """The rules, without a database; ``patients`` holds every patient of ``hits`` and every survivor that they lead to."""
    evidence: dict[str, Any] = {
        "identifiers": len(ref.identifiers),
        "identifiers_found": len({hit.identifier for hit in hits}),
    }
    if not ref.identifiers:
        return Match("review", reason="no_identifiers", evidence=evidence)
    chains = {hit.patient_id: survivors(hit.patient_id, patients) for hit in hits if hit.patient_id in patients}
    ends = {chain[-1] for chain in chains.values()}
    if not ends:
        return Match("waiting", reason="patient_unknown", evidence=evidence)
    if len(ends) > 1:
        return Match("review", reason="several_patients", evidence={**evidence, "patients": len(ends)})
    (end,) = ends
    # Rather an identifier that the survivor itself holds: the re-check before sending then needs no merge.
    best = min((hit for hit in hits if hit.patient_id in chains), key=lambda hit: hit.patient_id != end)
    if end not in patients:
        return Match("waiting", matched_by=best.digest, reason="survivor_unknown", evidence=evidence)
    patient = patients[end]
    verdicts = demographics.compare(demographics.of_row(ref), patient.who or Demographics())
    evidence |= {"fields": {name: verdict for name, verdict in verdicts.items() if verdict != "unknown"}}
    merged = [chain for chain in chains.values() if len(chain) > 1]
    if merged:
        evidence["merges"] = max(map(len, merged)) - 1
    reason = (
        ("merge_cycle" if patient.replaced_by is not None else None)
        or ("merged_patient_differs" if any(not _same_person(chain, patients) for chain in merged) else None)
        or ("demographics_differ" if demographics.differs(verdicts) else None)
        or ("identifiers_differ" if _other_identifier(ref, hits, patient) else None)
        or ("patient_deceased" if patient.deceased else None)
        or ("patient_inactive" if not patient.active else None)
    )
    return Match("review" if reason else "matched", end, best.digest, reason, evidence)


def survivors(patient_id: str, patients: Mapping[str, ChartPatient]) -> list[str]:
    """``patient_id`` and whom merges replaced it by, to the end; a cycle ends at its smallest id, for all alike."""
    chain = [patient_id]
    while (patient := patients.get(chain[-1])) and (following := patient.replaced_by) is not None:
        if following in chain:
            chain.append(min(chain[chain.index(following) :]))
            break
        chain.append(following)
    return chain


def _same_person(chain: Sequence[str], patients: Mapping[str, ChartPatient]) -> bool:
    """Along a chain of merges the charts agree, and nobody came back to life."""
    return all(
        demographics.agrees(demographics.compare(one.who or Demographics(), other.who or Demographics()))
        and (other.deceased or not one.deceased)
        for one, other in pairwise(patients[patient_id] for patient_id in chain)
    )


def _other_identifier(ref: PatientRef, hits: Sequence[Hit], patient: ChartPatient) -> bool:
    """The chart has another value in the system of an identifier that nobody has: one of the row's two is wrong."""
    known = {hit.identifier for hit in hits}
    values = patient.who.identifiers if patient.who else {}
    return any(i.value not in values.get(i.system, (i.value,)) for i in ref.identifiers if i not in known)


def _found(
    ref: PatientRef, digests: Mapping[Identifier, Sequence[bytes]], hits: Mapping[bytes, Sequence[str]]
) -> tuple[Hit, ...]:
    return tuple(Hit(i, d, patient) for i in ref.identifiers for d in digests[i] for patient in sorted(hits.get(d, ())))


def _load(connection: Connection[Any], w: Workplace, found: Mapping[PatientRef, Sequence[Hit]]) -> dict[str, ChartPatient]:
    """The patients of all hits with their survivors; resources are opened only where a row or a merge has to be compared."""
    ids = {hit.patient_id for hits in found.values() for hit in hits}
    if not ids:
        return {}
    compared = {
        hit.patient_id
        for ref, hits in found.items()
        if demographics.of_row(ref) or len({h.identifier for h in hits}) < len(ref.identifiers)
        for hit in hits
    }
    target = w.tenant.ehr.target
    rows = connection.execute(PATIENTS, {"tenant": w.id, "target": target, "patients": list(ids), "compared": list(compared)})
    return {
        patient_id: ChartPatient(active, deceased, replaced_by, _who(w, f"{target}|{patient_id}", body))
        for patient_id, active, deceased, replaced_by, body in rows
    }


def _who(w: Workplace, place: str, body: bytes | None) -> Demographics | None:
    return None if body is None else demographics.of_patient(w.sealer.open_json("mirror.patient", place, body))


@dataclass(frozen=True, slots=True)
class EncounterMatch:
    """The encounter that a row names, ``none`` if it names none; ``status`` is R4's, times are UTC instants or None."""

    outcome: Literal["none", "matched", "review", "waiting"]
    encounter_id: str | None = None
    status: str | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    reason: str | None = None


def match_encounters(
    connection: Connection[Any], w: Workplace, wanted: Sequence[tuple[tuple[Identifier, ...], str]]
) -> list[EncounterMatch]:
    """For each (identifiers, EHR id of the matched patient) the encounter of *that* patient, in one query for the batch."""
    distinct = {i for identifiers, _ in wanted for i in identifiers}
    digests = {i: digests_of(w.identity, i) for i in distinct}
    every = [digest for tries in digests.values() for digest in tries]
    hits: dict[bytes, list[EncounterHit]] = {}
    if every:
        scope = {"tenant": w.id, "target": w.tenant.ehr.target, "digests": every}
        for digest, *rest in connection.execute(ENCOUNTERS, scope):
            hits.setdefault(bytes(digest), []).append(EncounterHit(*rest))
    return [
        decide_encounter(identifiers, patient, [hit for i in identifiers for d in digests[i] for hit in hits.get(d, ())])
        for identifiers, patient in wanted
    ]


class EncounterHit(NamedTuple):
    """An encounter of the mirror; ``patients`` is its patient and all who replaced that patient."""

    encounter_id: str
    status: str
    starts_at: datetime | None
    ends_at: datetime | None
    patients: list[str]


def decide_encounter(identifiers: tuple[Identifier, ...], patient_id: str, hits: Sequence[EncounterHit]) -> EncounterMatch:
    """The rules, without a database. A number that others' encounters bear too is often unique only within a patient."""
    if not identifiers:
        return EncounterMatch("none")
    if not hits:
        return EncounterMatch("waiting", reason="encounter_unknown")
    own = {hit.encounter_id: hit for hit in hits if patient_id in hit.patients}
    if not own:
        return EncounterMatch("review", reason="encounter_of_other_patient")
    if len(own) > 1:
        return EncounterMatch("review", reason="several_encounters")
    (hit,) = own.values()
    return EncounterMatch("matched", hit.encounter_id, hit.status, hit.starts_at, hit.ends_at)
