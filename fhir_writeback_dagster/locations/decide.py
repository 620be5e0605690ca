"""The code location of decide: canonical records become candidates. Wiring only."""

from __future__ import annotations

import dagster as dg

from fhir_writeback_dagster.decide.assets import write_candidates
from fhir_writeback_dagster.decide.sensors import decide_job, decide_sensor

defs = dg.Definitions(
    assets=[write_candidates],
    jobs=[decide_job],
    sensors=[decide_sensor],
    executor=dg.in_process_executor,  # a run is one batch of thousands; a process a step costs 2 s and more (measured)
)
