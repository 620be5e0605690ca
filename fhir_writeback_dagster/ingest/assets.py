"""ingest in Dagster: what was delivered, and what it says."""

from collections.abc import Iterator

import dagster as dg

from fhir_writeback_dagster.config import settings
from fhir_writeback_dagster.ingest.checks import CANONICAL, check_results, check_specs
from fhir_writeback_dagster.orchestration.lanes import LaneResult, in_lane
from fhir_writeback_dagster.orchestration.partitions import TENANTS
from fhir_writeback_dagster.orchestration.run_context import RunContext

EXTRACTS = dg.AssetKey("scraped_extracts")
OWNERS = ["team:data-platform"]


# One op for both: the lane is held from the first file that is listed to the last record that is written.
@dg.multi_asset(
    name="ingest",
    partitions_def=TENANTS,
    can_subset=True,
    specs=[
        dg.AssetSpec(
            EXTRACTS,
            group_name="ingest",
            kinds={"file"},
            owners=OWNERS,
            description="The complete files in this tenant's landing zones, known by their SHA-256: the same file delivered "
            "again is free, a broken one is refused whole, with the line or byte where it breaks, and stays where it was.",
        ),
        dg.AssetSpec(
            CANONICAL,
            deps=[EXTRACTS],
            group_name="ingest",
            kinds={"polars", "postgres"},
            owners=OWNERS,
            description="Every row of those files with its end: part of a canonical record (times as instants, units in UCUM, "
            "codes by ConceptMap), not to be written, or quarantined with the reason. Nothing is guessed.",
        ),
    ],
    check_specs=check_specs(settings.home() / "expectations"),
)
def ingest(context: dg.AssetExecutionContext) -> Iterator[LaneResult]:
    selected, checked = context.selected_asset_keys, context.selected_asset_check_keys

    def work(run: RunContext) -> Iterator[LaneResult]:
        from fhir_writeback_dagster.ingest.pipeline import land, normalise

        if EXTRACTS in selected:
            yield dg.MaterializeResult(asset_key=EXTRACTS, metadata=land(run).metadata())
        if CANONICAL in selected:
            report = normalise(run)
            checks = list(check_results(report.checks, checked))
            yield dg.MaterializeResult(asset_key=CANONICAL, metadata=report.metadata(), check_results=checks)

    yield from in_lane(context, "ingest", work)
