"""The code location of ingest, the only one that opens landing zones; it also keeps the tenants' partitions. Wiring only."""

from __future__ import annotations

import dagster as dg

from fhir_writeback_dagster.ingest.assets import ingest
from fhir_writeback_dagster.ingest.sensors import extract_sensor, ingest_job, tenant_sensor

defs = dg.Definitions(
    assets=[ingest],
    jobs=[ingest_job],
    sensors=[extract_sensor, tenant_sensor],
    executor=dg.in_process_executor,
)
