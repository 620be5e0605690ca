"""commit in Dagster: runs for tenants with something to write, and mirrors read again when they are old or somebody waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from psycopg import Connection

from fhir_writeback_dagster.commit.limits.holds import blackout_s
from fhir_writeback_dagster.config.settings import Settings
from fhir_writeback_dagster.config.tenants import Tenant, load_tenant, tenant_ids
from fhir_writeback_dagster.errors import describe
from fhir_writeback_dagster.orchestration.dispatch import TICK_S, Asked, ask, pending, tick
from fhir_writeback_dagster.orchestration.lanes import LANE_TAG
from fhir_writeback_dagster.rules.target.matrix import load_vendor

SOONEST = timedelta(seconds=15)

mirror_job = dg.define_asset_job(
    "mirror_job", selection=["ehr_mirror"], tags={LANE_TAG: "mirror"}, description="Read one tenant's EHR again."
)
commit_job = dg.define_asset_job(
    "commit_job", selection=["committed_resources"], tags={LANE_TAG: "commit"}, description="Write what waits of one tenant."
)


drift_job = dg.define_asset_job(
    "drift_job",
    selection=["target_drift"],
    tags={LANE_TAG: "mirror"},
    description="Compare one tenant's EHR with what was approved.",
)
COMPARE_EVERY = timedelta(hours=20)
"""Once a day, and again within the hour where the target did not answer or its lane was held."""


@dataclass(frozen=True, slots=True)
class MirrorAge:
    """How a tenant's mirror stands: when its oldest part was refreshed, and how long the newest of those who wait may."""

    refreshed_at: datetime | None = None
    last_give_up_at: datetime | None = None
    on_demand: bool = False
    """It is filled by lookups, each of which says itself when it is due."""


Due = Callable[[MirrorAge, Tenant, datetime], bool]


def is_old(age: MirrorAge, tenant: Tenant, now: datetime) -> bool:
    """The tenant's own interval has passed since the last refresh."""
    return age.refreshed_at is None or now - age.refreshed_at >= tenant.ehr.mirror_every


def is_wanted(age: MirrorAge, tenant: Tenant, now: datetime) -> bool:
    """Nothing was mirrored yet, or somebody waits for a patient or encounter who is not there yet.

    Registration often follows the data by minutes, and sometimes by weeks: for one who began to wait just now every 15 s,
    later after a quarter of the time it has waited, at last as rarely as the tenant's own interval.
    """
    if age.refreshed_at is None:
        return True
    if age.last_give_up_at is None or age.on_demand:
        return False
    waited = now - (age.last_give_up_at - tenant.waiting_ttl)
    return now - age.refreshed_at >= min(max(SOONEST, waited / 4), tenant.ehr.mirror_every)


@dg.sensor(job=commit_job, minimum_interval_seconds=TICK_S, default_status=dg.DefaultSensorStatus.RUNNING)
def commit_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Asks for a run of each tenant with approved writes, with retries that are due, or with unanswered ones to look up."""
    with tick("commit") as (settings, connection):
        return ask(context.instance, connection, settings, "commit", pending(connection, "commit")).result(context.log)


@dg.sensor(job=mirror_job, minimum_interval_seconds=TICK_S, default_status=dg.DefaultSensorStatus.RUNNING)
def mirror_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Asks for a tenant's first mirror, for an early refresh while records wait for a patient or an encounter, and, where the
    mirror is filled on demand, for the lookups that are due.
    """
    with tick("mirror") as (settings, connection):
        return _ask(context.instance, connection, settings, is_wanted, pending(connection, "mirror")).result(context.log)


@dg.schedule(job=mirror_job, cron_schedule="* * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def mirror_schedule(context: dg.ScheduleEvaluationContext) -> Sequence[dg.RunRequest] | dg.SkipReason:
    """Asks every minute for a refresh of each mirror that is older than its tenant's ``ehr.mirror_every``."""
    with tick("mirror") as (settings, connection):
        asked = _ask(context.instance, connection, settings, is_old)
    return asked.scheduled("every mirror is young enough")


@dg.schedule(job=drift_job, cron_schedule="17 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def drift_schedule(context: dg.ScheduleEvaluationContext) -> Sequence[dg.RunRequest] | dg.SkipReason:
    """Asks once a day for a comparison of each target that was approved."""
    with tick("mirror") as (settings, connection):
        due = [
            tenant
            for tenant, _, compared_at in connection.execute("SELECT tenant, target, compared_at FROM ops.snapshots()")
            if datetime.now(UTC) - compared_at >= COMPARE_EVERY
        ]
        asked = ask(context.instance, connection, settings, "mirror", dict.fromkeys(sorted(set(due))))
    return asked.scheduled("no comparison is due")


def _ask(
    instance: dg.DagsterInstance,
    connection: Connection[Any],
    settings: Settings,
    due: Due,
    lookups: Mapping[str, str | None] | None = None,
) -> Asked:
    ages = {
        (tenant, target): MirrorAge(refreshed_at, last_give_up_at)
        for tenant, target, refreshed_at, last_give_up_at in connection.execute(
            "SELECT tenant, target, refreshed_at, last_give_up_at FROM ops.mirrors()"
        )
    }
    now, bad = datetime.now(UTC), []
    wanted: dict[str, str | None] = {}
    for name in tenant_ids(settings.tenants):
        try:
            tenant = load_tenant(settings.tenants, name)
            on_demand = load_vendor(tenant.ehr.vendor).on_demand
            age = replace(ages.get((name, tenant.ehr.target), MirrorAge()), on_demand=on_demand)
            if blackout_s(tenant.ehr.limits.blackouts, tenant.time_zone, now):
                continue
            if due(age, tenant, now):
                wanted[name] = f"{age.refreshed_at.timestamp():.0f}" if age.refreshed_at else "none"
            elif on_demand and lookups and name in lookups:
                wanted[name] = lookups[name]
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one tenant's file, the others get their runs
            bad.append(f"{name}: {describe(error)}")
    asked = ask(instance, connection, settings, "mirror", wanted)
    asked.notes.extend(bad)
    return asked
