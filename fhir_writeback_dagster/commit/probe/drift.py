"""Is the target still what was approved? Where something that we rely on is gone, its writes are held until a person looks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from fhir_writeback_dagster.commit.auth.discovery import ENDPOINT_CHANGED, smart_configuration
from fhir_writeback_dagster.commit.auth.scopes import written_types
from fhir_writeback_dagster.commit.fhir_client import FhirClient, open_ehr
from fhir_writeback_dagster.commit.limits import holds
from fhir_writeback_dagster.commit.mirror import store
from fhir_writeback_dagster.commit.probe.snapshot import Difference, Snapshot, differences, take
from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.target.capabilities import Target
from fhir_writeback_dagster.rules.target.matrix import load_vendor
from fhir_writeback_dagster.store.db import record_event


@dataclass(frozen=True, slots=True)
class DriftReport:
    """``approved`` False: nobody has approved this target yet, so there is nothing to compare with."""

    approved: bool
    differences: tuple[Difference, ...] = ()

    @property
    def breaking(self) -> bool:
        return any(one.breaking for one in self.differences)

    def metadata(self) -> dict[str, int | float | str]:
        if not self.approved:
            return {"approved": "no; see fhir-writeback target probe"}
        broken = ", ".join(one.where for one in self.differences if one.breaking)
        return {"differences": len(self.differences), "breaking": broken or "none"}


def check(run: RunContext) -> DriftReport:
    """Compare the target with what was approved; hold its writes where the change is a breaking one.

    :raises TargetError: it does not answer.
    """
    with run.store.tenant(run.id) as connection:
        before = approved(connection, run)
    if before is None:
        return DriftReport(approved=False)

    async def look() -> tuple[dict[str, Any] | None, Snapshot]:
        async with open_ehr(run) as ehr:
            return await seen(ehr, before)

    statement, now = asyncio.run(look())
    report = DriftReport(approved=True, differences=tuple(since(before, now, run)))
    with run.store.tenant(run.id) as connection:
        if statement is not None:
            store.write_capability(connection, run, statement)
        connection.execute(
            "UPDATE ledger.snapshot SET compared_at = now(), drifted = %s WHERE tenant = %s AND target = %s",
            (report.breaking, run.id, run.tenant.ehr.target),
        )
        if report.differences:
            told = {"breaking": report.breaking, "where": [one.where for one in report.differences]}
            record_event(connection, "target.drifted", [run.tenant.ehr.target], [told])
        if report.breaking:
            holds.hold(connection, run, "drift", None)
    return report


async def read_snapshot(ehr: FhirClient) -> tuple[dict[str, Any], Snapshot]:
    """The CapabilityStatement as it is, and the snapshot of what the target says of itself.

    :raises TargetError: it does not answer, or is not R4.
    """
    statement = await ehr.capability()
    return statement, take(statement, await smart_configuration(ehr.http))


async def seen(ehr: FhirClient, before: Snapshot | None) -> tuple[dict[str, Any] | None, Snapshot]:
    """What the target says of itself now, as :func:`read_snapshot` reads it.

    A target that names another token endpoint than the approved one gets no credential of ours; of such a target only what it
    shows without a token is returned.
    """
    try:
        return await read_snapshot(ehr)
    except TargetError as error:
        if error.code != ENDPOINT_CHANGED or before is None:
            raise
        return None, {**before, "smart": take({}, await smart_configuration(ehr.http))["smart"]}


def approve(
    connection: Connection[Any], run: RunContext, snapshot: Snapshot, findings: Sequence[dict[str, Any]], by: str
) -> None:
    """This is what the target is from now on compared with."""
    connection.execute(
        "INSERT INTO ledger.snapshot (tenant, target, body, findings, approved_by) VALUES (%s, %s, %s, %s, %s) "
        "ON CONFLICT (tenant, target) DO UPDATE SET body = excluded.body, findings = excluded.findings, "
        "approved_by = excluded.approved_by, approved_at = now(), compared_at = now(), drifted = false",
        (run.id, run.tenant.ehr.target, Jsonb(snapshot), Jsonb(list(findings)), by),
    )
    record_event(connection, "target.approved", [run.tenant.ehr.target], [{"by": by, "cells": len(findings)}])


def approved(connection: Connection[Any], run: RunContext) -> Snapshot | None:
    """What somebody approved last; None: nobody did."""
    row = connection.execute(
        "SELECT body FROM ledger.snapshot WHERE tenant = %s AND target = %s", (run.id, run.tenant.ehr.target)
    ).fetchone()
    return row[0] if row else None


def since(before: Snapshot, now: Snapshot, run: RunContext) -> list[Difference]:
    """The differences between the approved snapshot and the present one.

    Which differences break a write is judged by the approved snapshot: it says what our writes use, and a capability that was
    taken away could not be seen in the present one.
    """
    target = Target(load_vendor(run.tenant.ehr.vendor), _statement(before))
    return differences(before, now, target, written_types(run.tenant, run.settings.mappings / "fhir"))


def warnings(connection: Connection[Any], run: RunContext) -> list[str]:
    """Whether the target was never approved, or is not what was."""
    row = connection.execute(
        "SELECT drifted FROM ledger.snapshot WHERE tenant = %s AND target = %s", (run.id, run.tenant.ehr.target)
    ).fetchone()
    if row is None:
        return ["never probed: fhir-writeback target probe says whether it does what its matrix says"]
    return ["not what was approved any more: probe it again"] if row[0] else []


def _statement(snapshot: Snapshot) -> dict[str, Any]:
    """So much of the approved CapabilityStatement as decisions are made of."""

    def listed(codes: Sequence[str]) -> list[dict[str, str]]:
        return [{"code": code} for code in codes]

    types = [{"type": name, **flags, "interaction": listed(flags["interactions"])} for name, flags in snapshot["types"].items()]
    return {"rest": [{"mode": "server", "interaction": listed(snapshot["system"]), "resource": types}]}
