"""Writing a page of the EHR's patients, encounters or consents into the mirror: in sets, and never an older version over a
newer one, because the mirror's own run and a commit run that needs fresher consents may read at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection, sql
from psycopg.types.json import Jsonb

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.commit.mirror import rows
from fhir_writeback_dagster.commit.mirror.model import MirroredType
from fhir_writeback_dagster.commit.mirror.placement import named_patient, place_consents
from fhir_writeback_dagster.commit.mirror.rows import Stamp, identifiers, period, stamp
from fhir_writeback_dagster.commit.sqlfile import statement
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.fhir.references import referenced
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.rules.fhir.resource_url import server_of
from fhir_writeback_dagster.rules.people.demographics import identifier_key, mirror_keys
from fhir_writeback_dagster.store.advisory_locks import lock_transaction, number_of
from fhir_writeback_dagster.store.db import Row, copy_rows, record_event

TABLES: dict[MirroredType, tuple[str, str]] = {
    "Patient": ("patient", "patient_id"),
    "Encounter": ("encounter", "encounter_id"),
    "Consent": ("consent", "consent_id"),
}
_COLUMNS: dict[MirroredType, list[str]] = {
    "Patient": "tenant target patient_id version_id active deceased replaced_by body last_updated fetched_at".split(),
    "Encounter": "tenant target encounter_id version_id patient_id status starts_at ends_at last_updated fetched_at".split(),
    "Consent": "tenant target consent_id version_id patient_id patient_key status body last_updated fetched_at".split(),
}


@dataclass(frozen=True, slots=True)
class Sync:
    """How far the polling of one type is; ``server``: under whose URLs its rows are known (`rules.resourceurl`)."""

    watermark: datetime | None
    refreshed_at: datetime
    server: str | None
    listed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What one refresh of a type came to. ``watermark`` is the highest date that it saw and believed, and ``latest`` the one from
    which none is believed; ``listed``: it has read all that there is.
    """

    started: datetime
    changed: bool
    listed: bool
    watermark: datetime | None = None
    latest: datetime | None = None


def read_sync(connection: Connection[Any], run: RunContext) -> dict[str, Sync]:
    found = connection.execute(
        "SELECT resource_type, watermark, refreshed_at, server, listed_at FROM mirror.sync WHERE tenant = %s AND target = %s",
        (run.id, run.tenant.ehr.target),
    )
    return {kind: Sync(*rest) for kind, *rest in found}


def write_sync(connection: Connection[Any], run: RunContext, kind: str, done: Refreshed) -> None:
    """A refresh is complete. ``changed_at`` is taken after its pages were committed: who decided on the older mirror while
    it ran decided before that, and looks again. A `refreshed_at` in the future is of a clock that was set back since, and a
    watermark that nobody believes any more is given up.
    """
    connection.execute(
        statement("write_sync"),
        {
            "tenant": run.id,
            "target": run.tenant.ehr.target,
            "kind": kind,
            "server": server_of(run.tenant.ehr.base_url),
            "watermark": done.watermark,
            "latest": done.latest,
            "started": done.started,
            "listed": done.started if done.listed else None,
            "now": run.now(),
            "changed": done.changed,
        },
    )


def write_page(  # noqa: PLR0913 - what one statement is given, by name
    connection: Connection[Any],
    run: RunContext,
    kind: MirroredType,
    page: Sequence[Resource],
    *,
    again: bool,
    read_at: datetime | None = None,
) -> int:
    """Insert or replace what is new in ``page``; ``again`` also what is known in this version. Returns how many were.

    :param read_at: when its reading began: what another run has read since then is newer, unless the EHR's dates say otherwise.
        What nobody has read since is older than this page, whatever its dates say: an import may bring old ones.
    """
    lock(connection, run)
    newest = {resource["id"]: resource for resource in page}
    stamps = {id_: stamp(newest[id_]) for id_ in sorted(newest)}
    skip = set() if again else _known(connection, run, kind, stamps, read_at)
    fresh = [newest[id_] for id_ in stamps if id_ not in skip]
    if not fresh:
        return 0
    table, key = TABLES[kind]
    row = _ROWS[kind]
    copy_rows(
        connection,
        f"mirror.{table}",
        _COLUMNS[kind],
        (row(run, one, stamps[one["id"]]) for one in fresh),
        replace_by=["tenant", "target", key],
    )
    if kind in ("Patient", "Encounter"):
        _write_identifiers(connection, run, table, fresh)
    if kind != "Encounter":
        place_consents(connection, run, [one["id"] for one in fresh] if kind == "Patient" else [])
    record_event(connection, f"mirror.{table}_read", [run.tenant.ehr.target], [{"changed": len(fresh)}])
    return len(fresh)


def remove_absent(
    connection: Connection[Any], run: RunContext, kind: MirroredType, present: Sequence[str], began: datetime
) -> int:
    """Forget what a complete listing no longer holds; returns how many were.

    :param began: when the listing did: what another run has read since then came after it, a consent that denies for one.
    """
    lock(connection, run)
    table, key = TABLES[kind]
    place = {"tenant": run.id, "target": run.tenant.ehr.target, "present": list(present), "began": began}
    names = {"table": sql.Identifier(table), "key": sql.Identifier(key), "identifiers": sql.Identifier(f"{table}_identifier")}
    removed = connection.execute(
        sql.SQL(
            "DELETE FROM mirror.{table} WHERE tenant = %(tenant)s AND target = %(target)s "
            "AND {key} <> ALL (%(present)s::text[]) AND fetched_at <= %(began)s RETURNING {key}"
        ).format(**names),
        place,
    ).fetchall()
    if kind in ("Patient", "Encounter"):
        connection.execute(
            sql.SQL(
                "DELETE FROM mirror.{identifiers} i WHERE i.tenant = %(tenant)s AND i.target = %(target)s AND NOT EXISTS (SELECT "
                "FROM mirror.{table} m WHERE m.tenant = %(tenant)s AND m.target = %(target)s AND m.{key} = i.{key})"
            ).format(**names),
            place,
        )
    if removed:
        if kind == "Patient":
            place_consents(connection, run, [id_ for (id_,) in removed])
        record_event(connection, f"mirror.{table}_gone", [run.tenant.ehr.target], [{"gone": len(removed)}])
    return len(removed)


def count_rows(connection: Connection[Any], run: RunContext, kind: MirroredType) -> int:
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM mirror.{} WHERE tenant = %s AND target = %s").format(sql.Identifier(TABLES[kind][0])),
        (run.id, run.tenant.ehr.target),
    ).fetchone()
    return int(row[0]) if row else 0


def write_capability(connection: Connection[Any], run: RunContext, statement: Resource) -> None:
    digest = canonicaljson.sha256({key: value for key, value in statement.items() if key not in ("id", "meta", "date")})
    target = run.tenant.ehr.target
    known = connection.execute(
        "SELECT sha256 FROM mirror.capability WHERE tenant = %s AND target = %s", (run.id, target)
    ).fetchone()
    connection.execute(
        "INSERT INTO mirror.capability (tenant, target, fetched_at, sha256, body) VALUES (%s, %s, %s, %s, %s) "
        "ON CONFLICT (tenant, target) DO UPDATE SET fetched_at = excluded.fetched_at, sha256 = excluded.sha256, "
        "body = excluded.body",
        (run.id, target, run.now(), digest, Jsonb(statement, dumps=lambda value: canonicaljson.encode(value).decode())),
    )
    if known is None or bytes(known[0]) != digest:
        record_event(connection, "mirror.capability_changed", [target], [{"sha256": digest.hex()}])


def write_stand_in(
    connection: Connection[Any], run: RunContext, kind: MirroredType, instead: Resource, evidence: Mapping[str, Any]
) -> int:
    """Keep what stands for a resource that cannot be kept, and record why."""
    changed = write_page(connection, run, kind, [instead], again=True)
    record_event(connection, f"mirror.{TABLES[kind][0]}_defect", [run.tenant.ehr.target], [dict(evidence)])
    return changed


def lock(connection: Connection[Any], run: RunContext) -> None:
    """Until the transaction ends nobody else writes this tenant's mirror."""
    lock_transaction(connection, number_of("mirror", run.id, run.tenant.ehr.target))


def _known(
    connection: Connection[Any], run: RunContext, kind: MirroredType, stamps: dict[str, Stamp], read_at: datetime | None
) -> set[str]:
    """Ids whose version the mirror has already, or a newer one of. Older by number and by date is what a search shows whose index
    lags behind.
    """
    table, key = TABLES[kind]
    found = connection.execute(
        sql.SQL(
            "SELECT m.{key} FROM unnest(%s::text[], %s::text[], %s::timestamptz[]) AS n (id, version_id, last_updated) "
            "JOIN mirror.{table} m ON m.tenant = %s AND m.target = %s AND m.{key} = n.id "
            "WHERE (m.version_id = n.version_id AND m.last_updated IS NOT DISTINCT FROM n.last_updated) "
            "OR (m.fetched_at > %s AND (n.last_updated > m.last_updated) IS NOT TRUE) OR (m.last_updated > n.last_updated "
            "AND CASE WHEN m.version_id ~ '^[0-9]{{1,18}}$' AND n.version_id ~ '^[0-9]{{1,18}}$' "
            "THEN m.version_id::bigint > n.version_id::bigint ELSE false END)"
        ).format(key=sql.Identifier(key), table=sql.Identifier(table)),
        (
            list(stamps),
            [s.version_id for s in stamps.values()],
            [s.last_updated for s in stamps.values()],
            run.id,
            run.tenant.ehr.target,
            read_at,
        ),
    )
    return {id_ for (id_,) in found}


def _write_identifiers(connection: Connection[Any], run: RunContext, table: str, fresh: Sequence[Resource]) -> None:
    """What a resource no longer bears must no longer lead to it: a merge moves a number to the survivor."""
    target, key, ids = run.tenant.ehr.target, f"{table}_id", [one["id"] for one in fresh]
    connection.execute(
        sql.SQL("DELETE FROM mirror.{} WHERE tenant = %s AND target = %s AND {} = ANY(%s)").format(
            sql.Identifier(f"{table}_identifier"), sql.Identifier(key)
        ),
        (run.id, target, ids),
    )
    digests = {
        (run.id, target, run.identity.digest(*identifier_key(system, value)), one["id"])
        for one in fresh
        for system, value in identifiers(one, run.tenant.ehr.base_url)
    }
    if table == "patient":  # also while nobody matches on demographics: an index that lacks some would find the wrong one
        digests |= {(run.id, target, run.identity.digest(*key), one["id"]) for one in fresh for key in mirror_keys(one)}
    copy_rows(connection, f"mirror.{table}_identifier", ["tenant", "target", "identifier", key], sorted(digests))


def _patient(run: RunContext, resource: Resource, s: Stamp) -> Row:
    target = run.tenant.ehr.target
    return (
        run.id,
        target,
        s.id,
        s.version_id,
        rows.is_active(resource),
        rows.is_deceased(resource),
        rows.replaced_by(resource, run.tenant.ehr.bases),
        run.sealer.seal_json("mirror.patient", f"{target}|{s.id}", resource),
        s.last_updated,
        run.now(),
    )


def _encounter(run: RunContext, resource: Resource, s: Stamp) -> Row:
    starts, ends = period(resource, run.tenant.time_zone)
    patient = referenced(resource.get("subject"), "Patient", run.tenant.ehr.bases)
    status = resource.get("status")
    return (
        run.id,
        run.tenant.ehr.target,
        s.id,
        s.version_id,
        patient,
        status if isinstance(status, str) else "unknown",
        starts,
        ends,
        s.last_updated,
        run.now(),
    )


def _consent(run: RunContext, resource: Resource, s: Stamp) -> Row:
    target, status = run.tenant.ehr.target, resource.get("status")
    patient, key = named_patient(run, resource)
    return (
        run.id,
        target,
        s.id,
        s.version_id or "",
        patient,
        key,
        status if isinstance(status, str) else "unknown",
        run.sealer.seal_json("mirror.consent", f"{target}|{s.id}", resource),
        s.last_updated,
        run.now(),
    )


_ROWS: dict[MirroredType, Callable[[RunContext, Resource, Stamp], Row]] = {
    "Patient": _patient,
    "Encounter": _encounter,
    "Consent": _consent,
}
