"""ingest in Dagster: a look into the landing zones every few seconds, and partitions that follow the tenants' files."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg

from fhir_writeback_dagster.config.tenants import TENANT_ID, load_tenant, tenant_ids
from fhir_writeback_dagster.errors import describe
from fhir_writeback_dagster.orchestration.dispatch import TICK_S, ask, tick
from fhir_writeback_dagster.orchestration.lanes import LANE_TAG
from fhir_writeback_dagster.orchestration.partitions import TENANTS, changes, name, register_tenants

RUNNING = dg.DefaultSensorStatus.RUNNING

ingest_job = dg.define_asset_job(
    "ingest_job",
    selection=["scraped_extracts", "canonical_records"],
    # Run monitoring ends what takes longer; what has landed and is not read is the next run's.
    tags={LANE_TAG: "ingest", "dagster/max_runtime": "900"},
    description="Read what was delivered for one tenant.",
)


@dg.sensor(job=ingest_job, minimum_interval_seconds=TICK_S, default_status=RUNNING)
def extract_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Asks for a run of each tenant with complete files that no run has dealt with, or with landed ones that are not read."""
    from fhir_writeback_dagster.ingest.landing.watch import read_states, waiting
    from fhir_writeback_dagster.ingest.landing.zones import owners

    bad: list[str] = []
    work: dict[str, str | None] = {}
    with tick("ingest") as (settings, connection):
        states, now = read_states(connection), datetime.now(UTC)
        everybodys = owners(settings.home, settings.tenants)
        for tenant in tenant_ids(settings.tenants):
            try:
                if found := waiting(settings, load_tenant(settings.tenants, tenant), states, now, everybodys):
                    work[tenant] = found.tag
            except Exception as error:  # noqa: BLE001 - whatever it is, the other tenants go on
                bad.append(f"{tenant}: {describe(error)}")
        asked = ask(context.instance, connection, settings, "ingest", work)
    asked.notes.extend(bad)
    return asked.result(context.log)


@dg.sensor(minimum_interval_seconds=TICK_S, default_status=RUNNING)
def tenant_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Keeps the partitions of all assets equal to the files in tenants/, and makes the database roles of a new tenant."""
    with tick("ingest") as (settings, connection):
        if not settings.tenants.is_dir():  # a volume that is not mounted is no reason to forget every tenant
            return dg.SensorResult(skip_reason=f"there is no folder {settings.tenants}; the partitions stay as they are")
        ids = tenant_ids(settings.tenants)
        strange = sorted(p.name for p in settings.tenants.glob("*.yaml") if not TENANT_ID.fullmatch(p.stem))
        registered = register_tenants(connection, ids)
    add, remove = changes(context.instance.get_dynamic_partitions(name()), ids)
    if registered:
        context.log.info("registered %s", ", ".join(registered))
    if strange:
        context.log.warning("not tenant ids, left out: %s", ", ".join(strange))
    if not add and not remove:
        return dg.SensorResult(skip_reason=f"{len(ids)} tenants, as before; left out: {', '.join(strange) or 'none'}")
    return dg.SensorResult(dynamic_partitions_requests=[TENANTS.build_add_request(add), TENANTS.build_delete_request(remove)])
