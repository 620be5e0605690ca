"""The code location of commit, the only one that holds EHR credentials and opens a connection to an EHR. Wiring only."""

from __future__ import annotations

import dagster as dg

from fhir_writeback_dagster.commit.assets import committed_resources, ehr_mirror, target_drift
from fhir_writeback_dagster.commit.sensors import (
    commit_job,
    commit_sensor,
    drift_job,
    drift_schedule,
    mirror_job,
    mirror_schedule,
    mirror_sensor,
)

defs = dg.Definitions(
    assets=[ehr_mirror, target_drift, committed_resources],
    jobs=[mirror_job, drift_job, commit_job],
    sensors=[commit_sensor, mirror_sensor],
    schedules=[mirror_schedule, drift_schedule],
    executor=dg.in_process_executor,
)
