"""decide in Dagster: a run for each tenant that has records to decide, or waiting ones whose answer may have come."""

from __future__ import annotations

import dagster as dg

from fhir_writeback_dagster.orchestration.dispatch import TICK_S, ask, pending, tick
from fhir_writeback_dagster.orchestration.lanes import LANE_TAG

decide_job = dg.define_asset_job(
    "decide_job", selection=["write_candidates"], tags={LANE_TAG: "decide"}, description="Decide what waits of one tenant."
)


@dg.sensor(job=decide_job, minimum_interval_seconds=TICK_S, default_status=dg.DefaultSensorStatus.RUNNING)
def decide_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Asks for a run of each tenant with new records, with writes that commit sent back, or with candidates that waited for
    a patient or an encounter and whose mirror has changed since.
    """
    with tick("decide") as (settings, connection):
        return ask(context.instance, connection, settings, "decide", pending(connection, "decide")).result(context.log)
