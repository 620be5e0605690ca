"""What matching reads of the mirror, for a whole batch at a time.

Every statement names tenant and target wherever it reads; row-level security is only the net under it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any, Final, NamedTuple

from psycopg import Connection

from fhir_writeback_dagster.canonical import Identifier
from fhir_writeback_dagster.decide.matching.model import ChartPatient, Key
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.orchestration.target import mirror_on_demand
from fhir_writeback_dagster.rules.fhir.resource_url import server_of
from fhir_writeback_dagster.rules.people import demographics
from fhir_writeback_dagster.rules.people.demographics import identifier_key
from fhir_writeback_dagster.store.sealing import Identity
from fhir_writeback_dagster.store.sqlfile import statement

_PATIENT_HITS: Final = """
SELECT i.identifier, i.patient_id
FROM mirror.patient_identifier i
WHERE i.tenant = %(tenant)s AND i.target = %(target)s AND i.identifier = ANY(%(digests)s)
"""

# What may hold an event of these patients: neither planned nor void, and begun before the batch's last event ended.
_STAYS: Final = """
SELECT e.patient_id, e.encounter_id, e.status, e.starts_at, e.ends_at
FROM mirror.encounter e
WHERE e.tenant = %(tenant)s AND e.target = %(target)s AND e.patient_id = ANY(%(patients)s)
  AND e.status NOT IN ('planned', 'cancelled', 'entered-in-error') AND e.starts_at <= %(last)s
  AND (e.ends_at IS NULL OR e.ends_at >= %(first)s)
"""

_PATIENT_COUNT: Final = "SELECT count(*) FROM mirror.patient WHERE tenant = %(tenant)s AND target = %(target)s"


class EncounterHit(NamedTuple):
    """An encounter of the mirror; ``patients`` is its patient and all who replaced that patient."""

    encounter_id: str
    status: str
    starts_at: datetime | None
    ends_at: datetime | None
    patients: list[str]


def digests_of(identity: Identity, identifier: Identifier) -> list[bytes]:
    """What the mirror may hold for this identifier: one HMAC a generation of the identity key; none for an empty value."""
    return identity.all(*identifier_key(identifier.system, identifier.value)) if identifier.value.strip() else []


UNKNOWN_SIZE = 1_000_000
"""Patients of a chart of which the mirror holds only those who were looked up: a large hospital's."""


class Mirror:
    """The chart of a tenant's target (:class:`~.matching_model.Chart`) as commit keeps it, read in sets."""

    def __init__(self, connection: Connection[Any], run: RunContext) -> None:
        self._connection, self._run = connection, run
        self.server = server_of(run.tenant.ehr.base_url)

    def bearers(self, keys: Collection[Key]) -> dict[Key, dict[bytes, list[str]]]:
        digests = {key: self._run.identity.all(*key) for key in keys}
        hits = _read_hits(self._connection, self._run, [digest for tries in digests.values() for digest in tries])
        return {key: {digest: hits[digest] for digest in tries if digest in hits} for key, tries in digests.items()}

    def patients(self, ids: Collection[str], compared: Collection[str]) -> dict[str, ChartPatient]:
        return _read_patients(self._connection, self._run, ids, compared)

    def size(self) -> int:
        if mirror_on_demand(self._run):
            return UNKNOWN_SIZE
        row = self._connection.execute(_PATIENT_COUNT, _scope(self._run)).fetchone()
        return int(row[0]) if row else 0


def _read_hits(connection: Connection[Any], run: RunContext, digests: Collection[bytes]) -> dict[bytes, list[str]]:
    hits: dict[bytes, list[str]] = {}
    if digests:
        for digest, patient in connection.execute(_PATIENT_HITS, _scope(run) | {"digests": list(digests)}):
            hits.setdefault(bytes(digest), []).append(patient)
    return {digest: sorted(patients) for digest, patients in hits.items()}


def _read_patients(
    connection: Connection[Any], run: RunContext, ids: Collection[str], compared: Collection[str]
) -> dict[str, ChartPatient]:
    if not ids:
        return {}
    rows = connection.execute(
        statement(__package__, "patients"), _scope(run) | {"patients": list(ids), "compared": list(compared)}
    )
    return {
        patient_id: ChartPatient(active, deceased, replaced_by, _who(run, patient_id, body))
        for patient_id, active, deceased, replaced_by, body in rows
    }


def read_encounters(connection: Connection[Any], run: RunContext, digests: Iterable[bytes]) -> dict[bytes, list[EncounterHit]]:
    hits: dict[bytes, list[EncounterHit]] = {}
    wanted = list(digests)
    if wanted:
        for digest, *rest in connection.execute(statement(__package__, "encounters"), _scope(run) | {"digests": wanted}):
            hits.setdefault(bytes(digest), []).append(EncounterHit(*rest))
    return hits


def read_stays(
    connection: Connection[Any], run: RunContext, patients: Collection[str], first: datetime, last: datetime
) -> dict[str, list[EncounterHit]]:
    """By patient the encounters that touch the time from ``first`` to ``last``."""
    stays: dict[str, list[EncounterHit]] = {}
    wanted = _scope(run) | {"patients": list(patients), "first": first, "last": last}
    for patient, encounter, status, starts, ends in connection.execute(_STAYS, wanted):
        stays.setdefault(patient, []).append(EncounterHit(encounter, status, starts, ends, [patient]))
    return stays


def _scope(run: RunContext) -> dict[str, Any]:
    return {"tenant": run.id, "target": run.tenant.ehr.target}


def _who(run: RunContext, patient_id: str, body: bytes | None) -> demographics.Demographics | None:
    if body is None:
        return None
    return demographics.of_patient(run.sealer.open_json("mirror.patient", f"{run.tenant.ehr.target}|{patient_id}", body))
