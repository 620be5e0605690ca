"""Whose row this is: identifiers looked up in the mirror, for a whole batch in two queries.

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
from fhir_writeback_dagster.decide.matching.comparison import person_of
from fhir_writeback_dagster.decide.matching.demographic import Rules, match_demographics
from fhir_writeback_dagster.decide.matching.encounters import EncounterRequest, match_encounters
from fhir_writeback_dagster.decide.matching.mirror_queries import Mirror
from fhir_writeback_dagster.decide.matching.model import (
    Chart,
    ChartPatient,
    EncounterMatch,
    Match,
    contradicts,
    survivors,
    url_of,
)
from fhir_writeback_dagster.decide.matching.scoring import WEIGHTS, Model, Thresholds, doubt_of_shared
from fhir_writeback_dagster.decide.matching.tuning.learn import load_weights
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.people import demographics
from fhir_writeback_dagster.rules.people.demographics import SHARED_SYSTEMS, Demographics, identifier_key

__all__ = ["EncounterMatch", "EncounterRequest", "Match", "decide_match", "identify", "match_encounters", "match_patients"]

_MODEL = Model(0)


@dataclass(frozen=True, slots=True)
class Hit:
    """An identifier of the row that the mirror holds for ``patient_id``, under ``digest``."""

    identifier: Identifier
    digest: bytes
    patient_id: str


def match_patients(connection: Connection[Any], run: RunContext, refs: Sequence[PatientRef]) -> list[Match]:
    """One :class:`Match` for each of ``refs``, in their order; equal refs are decided once."""
    chart, wanted = Mirror(connection, run), run.tenant.matching
    decided = identify(chart, refs)
    if wanted.probabilistic != "off":
        weights = WEIGHTS if wanted.weights is None else load_weights(run.settings.home / wanted.weights)
        rules = Rules(Thresholds(wanted.auto, wanted.review), wanted.probabilistic == "auto", chart.server)
        decided |= match_demographics(chart, decided, weights, rules)
    return [decided[ref] for ref in refs]


def identify(chart: Chart, refs: Sequence[PatientRef]) -> dict[PatientRef, Match]:
    """What the identifiers alone bring each of ``refs`` to."""
    distinct = list(dict.fromkeys(refs))
    keys = {i: identifier_key(i.system, i.value) for ref in distinct for i in ref.identifiers if i.value.strip()}
    bearers = chart.bearers(set(keys.values()))
    found = {
        ref: [
            Hit(i, digest, patient)
            for i in ref.identifiers
            if i in keys
            for digest, patients in bearers[keys[i]].items()
            for patient in patients
        ]
        for ref in distinct
    }
    # A resource is opened only where a row says more than one number that is found: decrypting is most of the time of a match.
    compared = {
        hit.patient_id
        for ref, held in found.items()
        if demographics.of_row(ref) or len({h.identifier for h in held}) < len(ref.identifiers)
        for hit in held
    }
    patients = chart.patients({hit.patient_id for held in found.values() for hit in held}, compared)
    return {ref: decide_match(ref, found[ref], patients, chart.server) for ref in distinct}


def decide_match(ref: PatientRef, hits: Sequence[Hit], patients: Mapping[str, ChartPatient], server: str | None = None) -> Match:
    """The rules, without a database; ``patients`` holds every patient of ``hits`` and every survivor that they lead to.

    :param server: the EHR's, as :func:`~fhir_writeback_dagster.rules.fhir.resource_url.server_of` has it.
    """
    evidence: dict[str, Any] = {
        "identifiers": len(ref.identifiers),
        "identifiers_found": len({hit.identifier for hit in hits}),
    }
    if not ref.identifiers:
        return Match("review", reason="no_identifiers", evidence=evidence)
    chains = {hit.patient_id: survivors(hit.patient_id, patients) for hit in hits if hit.patient_id in patients}
    ends = {chain[-1] for chain in chains.values()}
    if not ends:
        elsewhere = all((url := url_of(i)) is not None and url.server != server for i in ref.identifiers)
        return Match("waiting", reason="patient_of_other_server" if elsewhere else "patient_unknown", evidence=evidence)
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
    # Of an identifier that nobody has, the chart may hold another value: one of the row's two is wrong.
    unknown = set(ref.identifiers) - {hit.identifier for hit in hits}
    merged = [chain for chain in chains.values() if len(chain) > 1]
    if merged:
        evidence["merges"] = max(map(len, merged)) - 1
    reason = (
        ("merge_cycle" if patient.replaced_by is not None else None)
        or ("merged_patient_differs" if any(not _same_person(chain, patients) for chain in merged) else None)
        or ("demographics_differ" if demographics.differs(verdicts) else None)
        or ("identifiers_differ" if any(contradicts(i, end, patient, server) for i in unknown) else None)
        or _doubt_of_shared(ref, hits, patient)
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


def _doubt_of_shared(ref: PatientRef, hits: Sequence[Hit], patient: ChartPatient) -> str | None:
    """A social security number alone is not enough: children may bear a parent's."""
    if any(hit.identifier.system not in SHARED_SYSTEMS for hit in hits):
        return None
    row, chart = demographics.of_row(ref), patient.who or Demographics()
    return doubt_of_shared(_MODEL.compare(person_of(row), person_of(chart)))
