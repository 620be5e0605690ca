"""What decide remembers: persons and their aliases, facts with their revisions, source records — read and written in sets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from psycopg import Connection

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.decide.facts.placement import Fact, Revision, person_id
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.store.db import copy_rows
from fhir_writeback_dagster.store.sqlfile import statement


def persons_of(connection: Connection[Any], run: RunContext, patients: Iterable[str]) -> dict[str, list[str]]:
    """EHR patient id → our person and then their aliases; a patient seen for the first time gets a person here.

    A patient into whom others were merged, one after the other too, takes over their person; where both sides have one already,
    the two become aliases of each other, so that a fact known under either is found and no key is minted anew.
    """
    ids, target = sorted(set(patients)), run.tenant.ehr.target
    if not ids:
        return {}
    merged: dict[str, list[str]] = defaultdict(list)
    for survivor, gone in connection.execute(
        statement(__package__, "merged_into"), {"tenant": run.id, "target": target, "patients": ids}
    ):
        merged[survivor].append(gone)
    known: dict[str, str] = dict(
        connection.execute(
            "SELECT patient_id, person_id FROM decision.person WHERE tenant = %s AND target = %s AND patient_id = ANY(%s)",
            (run.id, target, ids + [gone for group in merged.values() for gone in group]),
        ).fetchall()
    )
    fresh, aliases = [], []
    for patient in ids:
        former = [known[gone] for gone in merged[patient] if gone in known]
        if patient not in known:
            known[patient] = former[0] if former else person_id(run.identity, run.id, target, patient)
            fresh.append((run.id, target, patient, known[patient]))
        for other in former:
            if other != known[patient]:
                aliases += [(run.id, known[patient], other), (run.id, other, known[patient])]
    copy_rows(connection, "decision.person", ["tenant", "target", "patient_id", "person_id"], fresh)
    copy_rows(connection, "decision.person_alias", ["tenant", "person_id", "same_as"], aliases)
    same: dict[str, list[str]] = defaultdict(list)
    mine = list({known[patient] for patient in ids})
    for person, other in connection.execute(statement(__package__, "aliases"), {"tenant": run.id, "persons": mine}):
        same[person].append(other)
    return {patient: [known[patient], *same[known[patient]]] for patient in ids}


def facts_of(connection: Connection[Any], run: RunContext, keys: Sequence[str]) -> dict[str, Fact]:
    """The facts known under ``keys`` with all their revisions, oldest first."""
    target = run.tenant.ehr.target
    revisions: dict[str, list[Revision]] = defaultdict(list)
    for key, number, content, as_of, mapping, extract, void in connection.execute(
        "SELECT business_key, revision, content_hash, as_of, mapping_version, extract_id, void FROM decision.revision "
        "WHERE tenant = %s AND target = %s AND business_key = ANY(%s) ORDER BY business_key, revision",
        (run.id, target, keys),
    ):
        revisions[key].append(Revision(number, bytes(content), as_of, mapping, extract, void))
    return {
        key: Fact(key, owner, tuple(revisions[key]))
        for key, owner in connection.execute(
            "SELECT business_key, owner_source FROM decision.fact WHERE tenant = %s AND target = %s AND business_key = ANY(%s)",
            (run.id, target, keys),
        )
    }


def payloads_of(connection: Connection[Any], run: RunContext, facts: Iterable[Fact]) -> dict[str, dict[str, Any]]:
    """Business key → payload of the fact's latest revision, where it is not shredded or gone."""
    latest = {(fact.business_key, fact.latest.number) for fact in facts if fact.latest}
    if not latest:
        return {}
    made = connection.execute(
        "SELECT r.candidate_id, r.business_key FROM decision.revision r "
        "JOIN unnest(%s::text[], %s::int[]) AS x (key, number) ON r.business_key = x.key AND r.revision = x.number "
        "WHERE r.tenant = %s AND r.target = %s",
        ([key for key, _ in latest], [number for _, number in latest], run.id, run.tenant.ehr.target),
    )
    keys = dict(made.fetchall())
    sealed = connection.execute(
        "SELECT candidate_id, payload FROM decision.candidate "
        "WHERE tenant = %s AND candidate_id = ANY (%s) AND payload IS NOT NULL",
        (run.id, list(keys)),
    )
    return {
        keys[candidate]: canonicaljson.decode(run.sealer.open("decision.candidate.payload", candidate, payload))
        for candidate, payload in sealed
    }


def source_records_of(
    connection: Connection[Any], run: RunContext, wanted: Iterable[tuple[str, bytes, Sequence[bytes]]]
) -> dict[tuple[str, bytes], str]:
    """(source, source record) → the business key of the fact that the record stated last time.

    :param wanted: source, source record, and the same under older generations of the identity key, newest first.
    """
    asked = {(source, record): (record, *former) for source, record, former in wanted}
    rows = connection.execute(
        "SELECT source, source_record, business_key FROM decision.source_record "
        "WHERE tenant = %s AND target = %s AND source = ANY (%s) AND source_record = ANY (%s)",
        (
            run.id,
            run.tenant.ehr.target,
            sorted({source for source, _ in asked}),
            [one for all_ in asked.values() for one in all_],
        ),
    )
    found = {(source, bytes(record)): key for source, record, key in rows}
    return {
        (source, record): key
        for (source, record), digests in asked.items()
        if (key := next((found[source, one] for one in digests if (source, one) in found), None))
    }


def open_inputs(connection: Connection[Any], run: RunContext, inputs: Sequence[bytes], but: Sequence[UUID]) -> dict[bytes, str]:
    """Input hashes that another candidate already holds open, with the state it is in: the same row needs no second task."""
    found = connection.execute(
        "SELECT input_hash, state FROM decision.candidate WHERE tenant = %s AND target = %s AND input_hash = ANY(%s) "
        "AND state IN ('waiting', 'in_review') AND candidate_id <> ALL(%s)",
        (run.id, run.tenant.ehr.target, inputs, but),
    )
    return {bytes(digest): state for digest, state in found}
