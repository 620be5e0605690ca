"""The code location of audit: it sees the log of events and nothing else of a tenant. Wiring only."""

from __future__ import annotations

import dagster as dg

from fhir_writeback_dagster.audit.assets import audit_log
from fhir_writeback_dagster.audit.schedules import audit_job, audit_schedule

defs = dg.Definitions(
    assets=[audit_log],
    jobs=[audit_job],
    schedules=[audit_schedule],
    executor=dg.in_process_executor,
)
