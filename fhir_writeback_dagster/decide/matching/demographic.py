"""Rows that no identifier brought to a patient, looked for in the chart by demographics; only where the tenant turns it on.

The mirror's resources are sealed, so the search goes by keyed HMACs of rough keys (`rules.demographics.block_keys`) that commit
writes beside the identifiers; who shares one is opened, weighed, and told to a person or, if the tenant says so, matched.
`match evaluate` runs this same code on a chart in memory, so that what it measures is what the pipeline does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fhir_writeback_dagster.canonical import PatientRef
from fhir_writeback_dagster.decide.matching.comparison import person_of
from fhir_writeback_dagster.decide.matching.model import Chart, ChartPatient, Key, Match, contradicts, survivors
from fhir_writeback_dagster.decide.matching.scoring import Candidate, Model, Thresholds, Weights, decide
from fhir_writeback_dagster.rules.people import demographics
from fhir_writeback_dagster.rules.people.demographics import Demographics

#: Candidates that a reviewer is shown.
SHOWN = 5

#: Nobody was found; or a person is asked, who then also sees whom the demographics lead to.
_NOT_FOUND = ("no_identifiers", "patient_unknown", "patient_of_other_server")
_ASKED = ("several_patients", "demographics_differ")

#: A rough key of more patients tells nothing, and would have their resources opened for each row.
_MOST_IN_BLOCK = 400
#: Below one in a million nobody is a candidate at any threshold.
_FLOOR = -20


@dataclass(frozen=True, slots=True)
class Near:
    """Who is near a row, whatever the thresholds are.

    ``sole`` has the digest of a whole key for each patient whom it leads to, if it leads to nobody else.
    """

    candidates: tuple[Candidate, ...]
    sole: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Rules:
    """A tenant's ``matching``; what is not ``automatic`` goes to a person, however probable. ``server`` is its EHR's."""

    thresholds: Thresholds
    automatic: bool
    server: str | None = None


def match_demographics(
    chart: Chart, matches: Mapping[PatientRef, Match], weights: Weights, rules: Rules
) -> dict[PatientRef, Match]:
    """A new match for each row of ``matches`` of which demographics say more than its identifiers did; three queries."""
    near, patients = search(chart, matches, weights)
    return {ref: settle(ref, matches[ref], found, patients, rules) for ref, found in near.items()}


def search(
    chart: Chart, matches: Mapping[PatientRef, Match], weights: Weights
) -> tuple[dict[PatientRef, Near], Mapping[str, ChartPatient]]:
    """Who is near each row that its identifiers did not settle, and the patients whom these are."""
    rows = {
        ref: who for ref, match in matches.items() if match.reason in _NOT_FOUND + _ASKED and (who := demographics.of_row(ref))
    }
    if not rows:
        return {}, {}
    blocks = {ref: demographics.block_keys(who) for ref, who in rows.items()}
    wholes = {ref: demographics.whole_keys(who) for ref, who in rows.items()}
    bearers = chart.bearers(set().union(*blocks.values(), *wholes.values()))
    ids: dict[Key, set[str]] = {key: {one for found in by.values() for one in found} for key, by in bearers.items()}
    met = {
        ref: {one for key in keys | wholes[ref] if len(ids[key]) <= _MOST_IN_BLOCK for one in ids[key]}
        for ref, keys in blocks.items()
    }
    everyone = set().union(*met.values())
    patients = chart.patients(everyone, everyone)
    ends = {one: survivors(one, patients)[-1] for one in everyone if one in patients}
    persons = {end: person_of(patients[end].who or Demographics()) for end in {*ends.values()} if end in patients}
    model = Model(chart.size() if persons else 0, weights)
    near = {}
    for ref, who in rows.items():
        row = person_of(who)
        scored = [model.score(row, persons[end], end) for end in {ends[one] for one in met[ref] if one in ends} if end in persons]
        candidates = sorted((c for c in scored if c.bits > _FLOOR), key=lambda c: (-c.bits, c.patient_id))
        sole: dict[str, bytes] = {}
        for key in sorted(wholes[ref]):
            for digest, found in bearers[key].items():
                if len(leads_to := {ends.get(one) for one in found}) == 1 and (end := leads_to.pop()):
                    sole.setdefault(end, digest)
        near[ref] = Near(tuple(candidates), sole)
    return near, patients


def settle(ref: PatientRef, before: Match, near: Near, patients: Mapping[str, ChartPatient], rules: Rules) -> Match:
    """The match of a row by demographics, where ``before`` is what its identifiers came to."""
    verdict = decide(near.candidates, rules.thresholds)
    if verdict.outcome == "none":
        # Demographics are a name too: who bears it may be registered yet.
        return replace(before, outcome="waiting", reason="patient_unknown") if before.reason == "no_identifiers" else before
    evidence: dict[str, Any] = {
        **before.evidence,
        "candidates": [
            {"patient_id": c.patient_id, "probability": round(c.probability, 4), "fields": dict(c.levels)}
            for c in verdict.candidates[:SHOWN]
        ],
        "candidates_found": len(verdict.candidates),
    }
    if before.reason in _ASKED:
        return replace(before, evidence=evidence)
    best = verdict.candidates[0].patient_id
    patient = patients[best]
    reason = (
        verdict.reason
        or ("identifiers_differ" if any(contradicts(i, best, patient, rules.server) for i in ref.identifiers) else None)
        or ("merge_cycle" if patient.replaced_by is not None else None)
        or ("patient_deceased" if patient.deceased else None)
        or ("patient_inactive" if not patient.active else None)
        or ("automatic_match_off" if not rules.automatic else None)
        # Before sending, commit asks the mirror who bears the digest: without one it could not verify the match.
        or ("not_verifiable" if best not in near.sole else None)
    )
    evidence |= {"by": "demographics", "because": reason}
    if reason:
        return Match("review", best, None, "demographic_match", evidence)
    return Match("matched", best, near.sole[best], None, evidence)
