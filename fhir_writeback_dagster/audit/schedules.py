"""audit in Dagster: when the log of events is looked at."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from fhir_writeback_dagster.dispatch import ask
from fhir_writeback_dagster.lanes import LANE_TAG, settings_of
from fhir_writeback_dagster.store.db import connect
from fhir_writeback_dagster.tenants import tenant_ids

audit_job = dg.define_asset_job(
    "audit_job", selection=["audit_log"], tags={LANE_TAG: "audit"}, description="Count one tenant's events."
)


@dg.schedule(job=audit_job, cron_schedule="0 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def audit_schedule(context: dg.ScheduleEvaluationContext) -> Sequence[dg.RunRequest] | dg.SkipReason:
    """Counts the events of every tenant once an hour."""
    settings = settings_of("audit")
    with connect(settings.dsn) as connection:
        asked = ask(context.instance, connection, settings, "audit", tenant_ids(settings.tenants))
    return asked.requests or dg.SkipReason("; ".join(asked.notes) or "no tenants")
