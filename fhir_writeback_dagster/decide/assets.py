"""decide in Dagster: validated candidates with a verdict each."""

from collections.abc import Iterator

import dagster as dg

from fhir_writeback_dagster.orchestration.lanes import LaneResult, in_lane
from fhir_writeback_dagster.orchestration.partitions import TENANTS
from fhir_writeback_dagster.orchestration.run_context import RunContext


@dg.asset(
    partitions_def=TENANTS,
    deps=["canonical_records", "ehr_mirror"],
    group_name="decide",
    kinds={"fhir", "postgres"},
    owners=["team:data-platform"],
)
def write_candidates(context: dg.AssetExecutionContext) -> Iterator[LaneResult]:
    """What this tenant's records would write to the EHR: mapped to FHIR, validated, matched to a patient of the mirror,
    checked against consent and policy. Each carries a verdict (automatic, review, denied or not written) with the versions
    of everything it was decided on.
    """

    def work(run: RunContext) -> Iterator[LaneResult]:
        from fhir_writeback_dagster.decide.pipeline import decide

        yield dg.MaterializeResult(metadata=decide(run).metadata())

    yield from in_lane(context, "decide", work)
