"""What a drill came to: the EHR is read and held against what was asked for; only then is the ledger asked for its account."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.sandbox.check import WRITTEN, agree, fact_of, value_of
from fhir_writeback_dagster.sandbox.drills.history import denials, name_of, of_another, over_denial
from fhir_writeback_dagster.sandbox.drills.tenant_under_test import TenantUnderTest
from fhir_writeback_dagster.sandbox.story.expected import FactKey, Value


@dataclass(frozen=True, slots=True)
class DrillVerdict:
    """Counts.

    :param duplicates: resources beside the first of the same fact. Read in the EHR.
    :param lost: facts that should stand in the EHR as told last, and do not, and no person was asked about. Read in the EHR.
    :param wrongly_sent: resources that stand there and should not: for a patient whose consent was withdrawn, in the chart of a
        merged patient, over what a person had changed; resources that have, or had in their history, a version that was stored
        over a denial or that says what no extract told of its fact (another's); and versions stored while nothing was to be
        written. Read in the EHR.
    :param unaccounted: rows that are in no end, or open still; and resources that the EHR and the ledger do not both know, unless
        a person is asked about their fact (a write in doubt may arrive when nobody can look any more).
    :param with_people: facts that should stand and were given to a person instead.
    :param reconciled: writes without an answer that were found in the EHR.
    """

    duplicates: int
    lost: int
    wrongly_sent: int
    unaccounted: int
    with_people: int
    reconciled: int


@dataclass(frozen=True, slots=True)
class _Ledger:
    """What the ledger says: ids of the resources that are ours, facts that are in a person's hands, writes that were found."""

    resources: frozenset[str]
    with_people: frozenset[FactKey]
    reconciled: int


def find(ward: TenantUnderTest) -> DrillVerdict:
    """Read everything of the ward's patients in the EHR, past the proxy."""
    standing = _standing(ward)
    ledger = ward.run("commit", _ledger)
    short = {fact for fact, value in ward.wanted.items() if value is not None and not _stands(standing.get(fact), value)}
    overwritten = {fact for fact in short & ward.theirs if fact in standing}
    missed = short - overwritten
    asked = missed & ledger.with_people
    unwanted = {name_of(resource) for fact, there in standing.items() if ward.wanted.get(fact) is None for resource in there}
    report = ward.report()
    astray = abs(ward.rows_told - report.rows) + abs(report.rows - sum(report.ends.values())) + report.ends["waiting"]
    in_doubt = {name_of(resource) for fact in ledger.with_people & standing.keys() for resource in standing[fact]}
    in_ehr = {name_of(resource) for there in standing.values() for resource in there}
    return DrillVerdict(
        duplicates=sum(len(there) - 1 for there in standing.values()),
        lost=len(missed - ledger.with_people),
        wrongly_sent=len(unwanted | _wrong_once(ward, standing)) + len(overwritten) + ward.written_for_nothing,
        unaccounted=astray + len((in_ehr ^ ledger.resources) - in_doubt),
        with_people=len(asked),
        reconciled=ledger.reconciled,
    )


def _wrong_once(ward: TenantUnderTest, standing: Mapping[FactKey, Sequence[Resource]]) -> set[str]:
    """Names of the resources whose history holds a version that we should not have written, whatever stands there now."""
    chart = ward.stage.server.chart
    ours = {name_of(resource): resource["id"] for there in standing.values() for resource in there}
    kinds = {name.split("/")[0] for name in ours}
    versions = [v for kind in kinds for v in chart.history(kind, ours.values()) if name_of(v) in ours]
    grace = ward.run("commit", lambda run: run.tenant.consent.max_age + run.tenant.ehr.timeout)
    numbers = {person.mrn: person.chart_id for person in ward.people}
    denied = denials((c for c in chart.search("Consent") if c["meta"].get("lastUpdated")), numbers)
    return over_denial(versions, denied, grace) | of_another(versions, ward.told, ward.by_people)


def _standing(ward: TenantUnderTest) -> dict[FactKey, list[Resource]]:
    """Every resource in the charts of the ward's patients, or with an identifier of its tenant, by fact."""
    patients, system = {f"Patient/{chart_id}" for chart_id in ward.charts}, ward.hospital.identifier_system
    found: dict[FactKey, list[Resource]] = defaultdict(list)
    for kind in WRITTEN:
        for resource in ward.stage.server.chart.search(kind):
            subject = (resource.get("subject") or resource.get("patient") or {}).get("reference")
            if subject in patients or any(i.get("system") == system for i in resource.get("identifier") or ()):
                found[fact_of(resource)].append(resource)
    return dict(found)


def _stands(there: list[Resource] | None, value: Value) -> bool:
    return bool(there) and all(agree(value_of(resource), value) for resource in there or ())


def _ledger(run: RunContext) -> _Ledger:
    with run.store.tenant(run.id) as connection:
        links = connection.execute(
            "SELECT resource_type || '/' || resource_id FROM ledger.link "
            "WHERE tenant = %s AND origin = 'ours' AND state = 'active'",
            (run.id,),
        ).fetchall()
        kept = connection.execute(
            "SELECT c.candidate_id, c.payload FROM decision.candidate c LEFT JOIN ledger.intent i ON i.tenant = c.tenant "
            "AND i.candidate_id = c.candidate_id WHERE c.tenant = %s AND c.payload IS NOT NULL "
            "AND (c.state IN ('in_review', 'quarantined') OR i.state IN ('in_review', 'quarantined'))",
            (run.id,),
        ).fetchall()
        found = connection.execute(
            "SELECT count(*) FROM ledger.intent WHERE tenant = %s AND state = 'committed' "
            "AND (outcome = 'reconciled' OR reason LIKE 'found%%')",
            (run.id,),
        ).fetchone()
    facts = (fact_of(run.sealer.open_json("decision.candidate.payload", candidate, payload)) for candidate, payload in kept)
    return _Ledger(frozenset(name for (name,) in links), frozenset(facts), int(found[0]) if found else 0)
