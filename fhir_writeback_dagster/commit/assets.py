"""commit in Dagster: the mirror that is read from the EHR, and the resources that are written to it."""

from collections.abc import Iterator

import dagster as dg

from fhir_writeback_dagster.orchestration.lanes import LaneResult, in_lane
from fhir_writeback_dagster.orchestration.partitions import TENANTS
from fhir_writeback_dagster.orchestration.run_context import RunContext

OWNERS = ["team:data-platform"]


@dg.asset(partitions_def=TENANTS, group_name="commit", kinds={"fhir", "postgres"}, owners=OWNERS)
def ehr_mirror(context: dg.AssetExecutionContext) -> Iterator[LaneResult]:
    """What this tenant's EHR says of its patients, encounters and consents, and what it can do (its CapabilityStatement),
    as last read. Matching and consent work on this copy; a run fetches what has changed since.
    """

    def work(run: RunContext) -> Iterator[LaneResult]:
        from fhir_writeback_dagster.commit.mirror.refresh import refresh

        yield dg.MaterializeResult(metadata=refresh(run).metadata())

    yield from in_lane(context, "mirror", work)


@dg.asset(partitions_def=TENANTS, group_name="commit", kinds={"fhir"}, owners=OWNERS)
def target_drift(context: dg.AssetExecutionContext) -> Iterator[LaneResult]:
    """Whether this tenant's EHR is still what `fhir-writeback target probe` approved: its CapabilityStatement and its
    smart-configuration, compared. Where something that writing relies on is gone, its writes are held until somebody looks.
    """

    def work(run: RunContext) -> Iterator[LaneResult]:
        from fhir_writeback_dagster.commit.probe.drift import check

        yield dg.MaterializeResult(metadata=check(run).metadata())

    yield from in_lane(context, "mirror", work)


@dg.asset(
    partitions_def=TENANTS,
    deps=["write_candidates", ehr_mirror],
    group_name="commit",
    kinds={"fhir", "postgres"},
    owners=OWNERS,
)
def committed_resources(context: dg.AssetExecutionContext) -> Iterator[LaneResult]:
    """The resources that stand in this tenant's EHR because of us, each linked to what it came from: created, updated, or
    found there already. Everything is checked again before it is sent, and what may have arrived without an answer is looked
    up before anything is sent again. A run ends after about a minute and hands over.
    """

    def work(run: RunContext) -> Iterator[LaneResult]:
        from fhir_writeback_dagster.commit.pipeline import commit

        yield dg.MaterializeResult(metadata=commit(run).metadata())

    yield from in_lane(context, "commit", work)
