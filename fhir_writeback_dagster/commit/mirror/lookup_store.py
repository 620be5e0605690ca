"""The tables of a mirror that is filled on demand: which lookups are due, who is kept, and what was read of a few patients.

What is written of a patient goes into one transaction, encounters and consents with it: a patient whose consents are not there
yet would look like one who has none.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from psycopg import Connection, sql

from fhir_writeback_dagster.commit.mirror.model import MirroredType
from fhir_writeback_dagster.commit.mirror.store import TABLES, lock, write_page
from fhir_writeback_dagster.commit.sqlfile import statement
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.store.db import record_event

LookupOutcome = Literal["found", "none", "too_many", "unreliable", "refused"]

SOONEST = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class OpenLookup:
    """What decide asks; ``search`` as `decide.lookups` seals it."""

    key: bytes
    search: dict[str, Any]
    asked_at: datetime
    outcome: LookupOutcome | None


@dataclass(frozen=True, slots=True)
class Answered:
    """What the EHR said: ids of the patients found."""

    lookup: OpenLookup
    outcome: LookupOutcome
    found: Sequence[str] = ()


@dataclass(slots=True)
class Reading:
    """What the EHR says of a few patients. ``since``: when the reading began; ``gone``: whom it does not have, or not show."""

    since: datetime
    patients: dict[str, Resource] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    details: dict[MirroredType, list[Resource]] = field(default_factory=dict)


def read_lookups(connection: Connection[Any], run: RunContext, *, all_of_them: bool) -> list[OpenLookup]:
    """The lookups that are due; ``all_of_them``: and those that found somebody, because by now they may find others."""
    target = run.tenant.ehr.target
    rows = connection.execute(
        "SELECT key, search, asked_at, outcome FROM mirror.lookup WHERE tenant = %s AND target = %s "
        "AND (due_at <= %s OR (%s AND outcome IN ('found', 'too_many'))) ORDER BY asked_at, key",
        (run.id, target, run.now(), all_of_them),
    ).fetchall()
    return [
        OpenLookup(bytes(key), run.sealer.open_json("mirror.lookup", f"{target}|{key.hex()}", search), asked_at, outcome)
        for key, search, asked_at, outcome in rows
    ]


def forget(connection: Connection[Any], run: RunContext) -> int:
    """Delete the lookups whose time is over, and every patient that nothing needs any more: no other lookup, no open candidate or
    intent, and no patient of these that was merged into it. The HMACs of a deleted patient's identifiers stay, because a later
    merge is found by them. Returns the number of deleted patients.
    """
    place = {"tenant": run.id, "target": run.tenant.ehr.target, "now": run.now()}
    lock(connection, run)
    connection.execute(
        "DELETE FROM mirror.lookup WHERE tenant = %(tenant)s AND target = %(target)s AND needed_until <= %(now)s", place
    )
    dropped = connection.execute(statement("forget"), place).rowcount
    if dropped:
        _without_patient(connection, run)
        record_event(connection, "mirror.patient_dropped", [run.tenant.ehr.target], [{"dropped": dropped}])
    return dropped


def wanted(connection: Connection[Any], run: RunContext) -> list[str]:
    """Ids of the patients whom the mirror holds, or whom open work names."""
    return [id_ for (id_,) in connection.execute(statement("wanted"), {"tenant": run.id, "target": run.tenant.ehr.target})]


def former(connection: Connection[Any], run: RunContext, digests: Collection[bytes], linked: Collection[str]) -> set[str]:
    """Patients whom the mirror has dropped, and who bore one of these identifiers or are ``linked`` to by others: they may have
    been merged since.
    """
    if not digests and not linked:
        return set()
    found = connection.execute(
        "SELECT DISTINCT i.patient_id FROM mirror.patient_identifier i WHERE i.tenant = %(tenant)s AND i.target = %(target)s "
        "AND (i.identifier = ANY (%(digests)s::bytea[]) OR i.patient_id = ANY (%(linked)s::text[])) AND NOT EXISTS ("
        "SELECT FROM mirror.patient p WHERE p.tenant = %(tenant)s AND p.target = %(target)s AND p.patient_id = i.patient_id)",
        {"tenant": run.id, "target": run.tenant.ehr.target, "digests": list(digests), "linked": list(linked)},
    )
    return {id_ for (id_,) in found}


def keep(
    connection: Connection[Any], run: RunContext, reading: Reading, answers: Sequence[Answered], *, again: bool
) -> tuple[dict[MirroredType, int], dict[MirroredType, int]]:
    """Write a reading and the lookups that it answers; what it no longer holds of its patients goes, unless another run has read
    it since. Returns how many resources were changed and how many are gone, by type.
    """
    lock(connection, run)
    changed: dict[MirroredType, int] = {}
    gone: dict[MirroredType, int] = {}
    read: dict[MirroredType, list[Resource]] = {"Patient": list(reading.patients.values()), **reading.details}
    for kind, resources in read.items():
        changed[kind] = write_page(connection, run, kind, resources, again=again, read_at=reading.since)
        if kind != "Patient":
            gone[kind] = _remove_unlisted(connection, run, kind, reading)
    gone["Patient"] = _remove_patients(connection, run, reading)
    for kind, count in gone.items():
        if count:
            record_event(connection, f"mirror.{TABLES[kind][0]}_gone", [run.tenant.ehr.target], [{"gone": count}])
    _write_answers(connection, run, answers)
    return changed, gone


def tell_news(connection: Connection[Any], run: RunContext) -> None:
    """The mirror knows something new: who waits looks again. To be called after what is new was committed."""
    connection.execute(
        "UPDATE mirror.sync SET changed_at = %s WHERE tenant = %s AND target = %s AND resource_type = 'Patient'",
        (run.now(), run.id, run.tenant.ehr.target),
    )


def pause(lookup: OpenLookup, outcome: LookupOutcome, now: datetime, every: timedelta) -> timedelta | None:
    """How long until a lookup is asked again; None: with each refresh.

    Who is not there yet is registered within minutes, or within weeks: 15 s, then a quarter of the time that was waited up to
    ``every`` (the mirror's interval), and after days ever more rarely. For an encounter of somebody who is there, each refresh
    looks anyway.
    """
    waited = now - lookup.asked_at
    if "encounters_of" in lookup.search and outcome == "found":
        return max(SOONEST, waited / 4) if waited / 4 < every else None
    if outcome in ("found", "too_many"):
        return None
    return max(SOONEST, min(waited / 4, every), waited / 24)


def _write_answers(connection: Connection[Any], run: RunContext, answers: Sequence[Answered]) -> None:
    now, every = run.now(), run.tenant.ehr.mirror_every
    pauses = [pause(a.lookup, a.outcome, now, every) for a in answers]
    connection.execute(
        "UPDATE mirror.lookup l SET answered_at = %(now)s, outcome = x.outcome, found = string_to_array(x.found, ' '), "
        "due_at = x.due_at FROM unnest(%(keys)s::bytea[], %(outcomes)s::text[], %(found)s::text[], %(due)s::timestamptz[]) "
        "AS x (key, outcome, found, due_at) WHERE l.tenant = %(tenant)s AND l.target = %(target)s AND l.key = x.key",
        {
            "tenant": run.id,
            "target": run.tenant.ehr.target,
            "now": now,
            "keys": [a.lookup.key for a in answers],
            "outcomes": [a.outcome for a in answers],
            "found": [" ".join(a.found) for a in answers],
            "due": [None if p is None else now + p for p in pauses],
        },
    )


def _remove_unlisted(connection: Connection[Any], run: RunContext, kind: MirroredType, reading: Reading) -> int:
    table, key = TABLES[kind]
    place = {
        "tenant": run.id,
        "target": run.tenant.ehr.target,
        "patients": list(reading.patients),
        "present": [one["id"] for one in reading.details[kind]],
        "since": reading.since,
    }
    gone = [
        id_
        for (id_,) in connection.execute(
            sql.SQL(
                "DELETE FROM mirror.{table} WHERE tenant = %(tenant)s AND target = %(target)s "
                "AND patient_id = ANY (%(patients)s::text[]) AND {key} <> ALL (%(present)s::text[]) AND fetched_at <= %(since)s "
                "RETURNING {key}"
            ).format(table=sql.Identifier(table), key=sql.Identifier(key)),
            place,
        )
    ]
    if kind == "Encounter":
        connection.execute(
            "DELETE FROM mirror.encounter_identifier WHERE tenant = %s AND target = %s AND encounter_id = ANY (%s)",
            (run.id, run.tenant.ehr.target, gone),
        )
    return len(gone)


def _remove_patients(connection: Connection[Any], run: RunContext, reading: Reading) -> int:
    place = (run.id, run.tenant.ehr.target, list(reading.gone))
    gone = connection.execute(
        "DELETE FROM mirror.patient WHERE tenant = %s AND target = %s AND patient_id = ANY (%s) AND fetched_at <= %s",
        (*place, reading.since),
    ).rowcount
    connection.execute(
        "DELETE FROM mirror.patient_identifier i WHERE tenant = %s AND target = %s AND patient_id = ANY (%s) AND NOT EXISTS ("
        "SELECT FROM mirror.patient p WHERE p.tenant = i.tenant AND p.target = i.target AND p.patient_id = i.patient_id)",
        place,
    )
    if gone:
        _without_patient(connection, run)
    return gone


def _without_patient(connection: Connection[Any], run: RunContext) -> None:
    """What is left of patients whom the mirror no longer holds goes too."""
    place = {"tenant": run.id, "target": run.tenant.ehr.target}
    for kind in ("encounter", "consent"):
        connection.execute(
            sql.SQL(
                "DELETE FROM mirror.{} m WHERE m.tenant = %(tenant)s AND m.target = %(target)s AND NOT EXISTS (SELECT "
                "FROM mirror.patient p WHERE p.tenant = %(tenant)s AND p.target = %(target)s AND p.patient_id = m.patient_id)"
            ).format(sql.Identifier(kind)),
            place,
        )
    connection.execute(
        "DELETE FROM mirror.encounter_identifier i WHERE i.tenant = %(tenant)s AND i.target = %(target)s AND NOT EXISTS (SELECT "
        "FROM mirror.encounter e WHERE e.tenant = %(tenant)s AND e.target = %(target)s AND e.encounter_id = i.encounter_id)",
        place,
    )
