"""Whose row this is: identifiers looked up in the mirror, for a whole batch in two queries (design section 6.4).

Deterministic: one patient or nobody. What is unclear goes to a person, what is not there yet waits for the mirror; a match
on demographics alone is :mod:`decide.matching_demographic`'s business, and only where the tenant turns it on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.canonical import Identifier, PatientRef
from fhir_writeback_dagster.decide.matching_demographic import match_demographics
from fhir_writeback_dagster.decide.matching_mirror import EncounterHit, digests_of, read_encounters, read_hits, read_patients
from fhir_writeback_dagster.decide.matching_model import ChartPatient, EncounterMatch, Match, survivors
from fhir_writeback_dagster.rules import demographics
from fhir_writeback_dagster.rules.demographics import Demographics
from fhir_writeback_dagster.workplace import Workplace

__all__ = ["EncounterMatch", "Match", "decide_encounter", "decide_match", "match_encounters", "match_patients"]


@dataclass(frozen=True, slots=True)
class Hit:
    """An identifier of the row that the mirror holds for ``patient_id``, under ``digest``."""

    identifier: Identifier
    digest: bytes
    patient_id: str


def match_patients(connection: Connection[Any], w: Workplace, refs: Sequence[PatientRef]) -> list[Match]:
    """One :class:`Match` for each of ``refs``, in their order; equal refs are decided once."""
    distinct = list(dict.fromkeys(refs))
    digests = {i: digests_of(w.identity, i) for ref in distinct for i in ref.identifiers}
    hits = read_hits(connection, w, [digest for tries in digests.values() for digest in tries])
    found = {
        ref: [Hit(i, d, patient) for i in ref.identifiers for d in digests[i] for patient in hits.get(d, ())] for ref in distinct
    }
    # A resource is opened only where a row says more than one number that is found: decrypting is most of the time of a match.
    compared = {
        hit.patient_id
        for ref, held in found.items()
        if demographics.of_row(ref) or len({h.identifier for h in held}) < len(ref.identifiers)
        for hit in held
    }
    patients = read_patients(connection, w, {hit.patient_id for held in found.values() for hit in held}, compared)
    decided = {ref: decide_match(ref, found[ref], patients) for ref in distinct}
    if w.tenant.matching.probabilistic != "off":
        decided |= match_demographics(connection, w, decided)
    return [decided[ref] for ref in refs]


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


def match_encounters(
    connection: Connection[Any], w: Workplace, wanted: Sequence[tuple[tuple[Identifier, ...], str]]
) -> list[EncounterMatch]:
    """For each (identifiers, EHR id of the matched patient) the encounter of *that* patient, in one query for the batch."""
    digests = {i: digests_of(w.identity, i) for identifiers, _ in wanted for i in identifiers}
    hits = read_encounters(connection, w, [digest for tries in digests.values() for digest in tries])
    return [
        decide_encounter(identifiers, patient, [hit for i in identifiers for d in digests[i] for hit in hits.get(d, ())])
        for identifiers, patient in wanted
    ]


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
