"""audit in Dagster: a look at the log of events through the audit login, which reads it and nothing else of a tenant."""

import warnings
from collections.abc import Iterator

import dagster as dg

from fhir_writeback_dagster.config.settings import Settings
from fhir_writeback_dagster.orchestration.lanes import LaneResult, holding
from fhir_writeback_dagster.orchestration.partitions import TENANTS
from fhir_writeback_dagster.store.db import HeldLane, Store

with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.BetaWarning)  # observation by partition is beta in Dagster 1.13

    @dg.multi_observable_source_asset(  # type: ignore[untyped-decorator]
        name="audit_log",
        partitions_def=TENANTS,
        specs=[
            dg.AssetSpec(
                "audit_log",
                deps=["scraped_extracts", "canonical_records", "write_candidates", "committed_resources"],
                group_name="audit",
                kinds={"postgres"},
                owners=["team:data-platform"],
                description="Every change of state of this tenant, written in the same transaction as the change. An "
                "observation counts the events by type; it changes nothing.",
            )
        ],
    )
    def audit_log(context: dg.AssetExecutionContext) -> Iterator[LaneResult]:
        yield from holding(context, "audit", _count, dg.ObserveResult)


def _count(settings: Settings, tenant: str, _: HeldLane) -> Iterator[LaneResult]:
    with Store(settings.dsn, settings.layer) as store, store.tenant(tenant) as connection:
        rows = connection.execute(
            "SELECT type, count(*), max(at) FROM audit.event WHERE tenant = %s GROUP BY type ORDER BY type", (tenant,)
        ).fetchall()
    metadata: dict[str, int | dg.MetadataValue] = {f"events/{kind}": count for kind, count, _ in rows}
    metadata["events"] = sum(count for _, count, _ in rows)
    if rows:
        metadata["last_event_at"] = dg.MetadataValue.timestamp(max(at for _, _, at in rows))
    yield dg.ObserveResult(asset_key="audit_log", metadata=metadata)
