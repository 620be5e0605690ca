"""audit in Dagster: when the log of events is looked at."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from fhir_writeback_dagster.config.tenants import tenant_ids
from fhir_writeback_dagster.orchestration.dispatch import ask, tick
from fhir_writeback_dagster.orchestration.lanes import LANE_TAG

audit_job = dg.define_asset_job(
    "audit_job", selection=["audit_log"], tags={LANE_TAG: "audit"}, description="Count one tenant's events."
)


@dg.schedule(job=audit_job, cron_schedule="0 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def audit_schedule(context: dg.ScheduleEvaluationContext) -> Sequence[dg.RunRequest] | dg.SkipReason:
    """Counts the events of every tenant once an hour."""
    with tick("audit") as (settings, connection):
        asked = ask(context.instance, connection, settings, "audit", dict.fromkeys(tenant_ids(settings.tenants)))
    return asked.scheduled("no tenants")
