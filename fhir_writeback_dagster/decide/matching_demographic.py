"""Rows that no identifier brought to a patient, looked for in the mirror by demographics; only where the tenant turns it on.

The mirror's resources are sealed, so the search goes by keyed HMACs of rough keys (`rules.demographics.block_keys`) that commit
writes beside the identifiers; who shares one is opened, weighed, and told to a person or, if the tenant says so, matched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.canonical import PatientRef
from fhir_writeback_dagster.decide.match_learn import load_weights
from fhir_writeback_dagster.decide.matching_fields import persons_of
from fhir_writeback_dagster.decide.matching_mirror import count_patients, read_hits, read_patients
from fhir_writeback_dagster.decide.matching_model import ChartPatient, Match, contradicts, survivors
from fhir_writeback_dagster.decide.matching_probabilistic import WEIGHTS, Candidate, Model, Thresholds, Verdict, decide
from fhir_writeback_dagster.rules import demographics
from fhir_writeback_dagster.rules.demographics import Demographics
from fhir_writeback_dagster.rules.resourceurl import server_of
from fhir_writeback_dagster.store.capability import mirror_on_demand
from fhir_writeback_dagster.workplace import Workplace

#: Candidates that a reviewer is shown.
_SHOWN = 5
#: Patients of a chart of which the mirror holds only those who were looked up: a large hospital's.
UNKNOWN_SIZE = 1_000_000


def match_demographics(connection: Connection[Any], w: Workplace, matches: Mapping[PatientRef, Match]) -> dict[PatientRef, Match]:
    """A new match for each row of ``matches`` that no identifier brought to anybody and whom demographics do; three queries."""
    rows = {
        ref: who
        for ref, match in matches.items()
        if match.reason in ("no_identifiers", "patient_unknown", "patient_of_other_server") and (who := demographics.of_row(ref))
    }
    digests = {
        key: w.identity.all(*key) for who in rows.values() for key in demographics.block_keys(who) | demographics.whole_keys(who)
    }
    bearers = read_hits(connection, w, [digest for tries in digests.values() for digest in tries])
    near = {
        ref: {one for key in demographics.block_keys(who) for digest in digests[key] for one in bearers.get(digest, ())}
        for ref, who in rows.items()
    }
    everyone = set().union(*near.values())
    if not everyone:
        return {}
    patients = read_patients(connection, w, everyone, everyone)
    named = w.tenant.matching.weights
    weights = WEIGHTS if named is None else load_weights(w.settings.home / named)
    size = UNKNOWN_SIZE if mirror_on_demand(w) else count_patients(connection, w)
    model = Model(size, weights=weights)
    thresholds = Thresholds(w.tenant.matching.auto, w.tenant.matching.review)
    found: dict[PatientRef, Match] = {}
    for ref, who in rows.items():
        ends = sorted({survivors(one, patients)[-1] for one in near[ref]} & patients.keys())
        verdict = decide([_best(model, who, end, patients[end]) for end in ends], thresholds)
        if verdict.outcome != "none":
            own = {d: bearers[d] for key in demographics.whole_keys(who) for d in digests[key] if d in bearers}
            found[ref] = _match(w, ref, verdict, patients, matches[ref], own)
    return found


def _best(model: Model, row: Demographics, patient_id: str, patient: ChartPatient) -> Candidate:
    charts = persons_of(patient.who or Demographics())
    scored = [model.score(one, other, patient_id) for one in persons_of(row) for other in charts]
    return max(scored, key=lambda candidate: candidate.bits)


def _match(
    w: Workplace,
    ref: PatientRef,
    verdict: Verdict,
    patients: Mapping[str, ChartPatient],
    before: Match,
    whole: Mapping[bytes, list[str]],
) -> Match:
    best = verdict.candidates[0]
    patient = patients[best.patient_id]
    server = server_of(w.tenant.ehr.base_url)
    only = [digest for digest, bearers in whole.items() if {survivors(one, patients)[-1] for one in bearers} == {best.patient_id}]
    reason = (
        verdict.reason
        or ("identifiers_differ" if any(contradicts(i, best.patient_id, patient, server) for i in ref.identifiers) else None)
        or ("merge_cycle" if patient.replaced_by is not None else None)
        or ("patient_deceased" if patient.deceased else None)
        or ("patient_inactive" if not patient.active else None)
        or ("automatic_match_off" if w.tenant.matching.probabilistic != "auto" else None)
        # Before sending, commit asks the mirror who bears the digest: without one it could not verify the match.
        or ("not_verifiable" if not only else None)
    )
    evidence = {
        **before.evidence,
        "by": "demographics",
        "because": reason,
        "candidates": [
            {"patient_id": c.patient_id, "probability": round(c.probability, 4), "fields": dict(c.levels)}
            for c in verdict.candidates[:_SHOWN]
        ],
        "candidates_found": len(verdict.candidates),
    }
    if reason:
        return Match("review", best.patient_id, None, "demographic_match", evidence)
    return Match("matched", best.patient_id, only[0], None, evidence)
