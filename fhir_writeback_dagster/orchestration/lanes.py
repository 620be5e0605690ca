"""How a run enters its lane: at most one at a time per (lane, tenant), whoever started it — sensor, person or backfill.

The guard is the advisory lock of ``store.db.lane``, which the run takes first and which goes with its process; a second comer
ends clean. Tags of jobs would miss runs from the UI and backfills (``__ASSET_JOB``), and a tag limit on
``dagster/partition`` would serialise a tenant over all layers (measured, Dagster 1.13).

This is also the gate that no patient data passes on its way into Dagster's storage: whatever a layer raises leaves here as a
``dg.Failure`` with one safe line and without a cause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args
from uuid import UUID

import dagster as dg
import structlog

from fhir_writeback_dagster.config.settings import Layer, Settings, from_environment
from fhir_writeback_dagster.config.tenants import load_tenant
from fhir_writeback_dagster.errors import ConfigError, LaneHeld, describe
from fhir_writeback_dagster.orchestration.logs import run_log
from fhir_writeback_dagster.orchestration.run_context import RunContext, open_run
from fhir_writeback_dagster.store.db import HeldLane
from fhir_writeback_dagster.store.db import lane as hold_lane

Lane = Literal["ingest", "decide", "mirror", "commit", "audit"]
LANES: tuple[Lane, ...] = get_args(Lane)
LANE_TAG = "fhir_writeback/lane"
TENANT_TAG = "fhir_writeback/tenant"
WORK_TAG = "fhir_writeback/work"

LAYER_OF: dict[Lane, Layer] = {
    "ingest": "ingest",
    "decide": "decide",
    "mirror": "commit",
    "commit": "commit",
    "audit": "audit",
}

LaneResult = dg.MaterializeResult[None] | dg.ObserveResult


def settings_of(lane: Lane) -> Settings:
    """This process's settings.

    :raises ConfigError: they are those of a layer that does not work in this lane.
    """
    settings = from_environment()
    if settings.layer != LAYER_OF[lane]:
        raise ConfigError(
            "wrong_layer",
            f"the {lane} lane belongs to the {LAYER_OF[lane]} layer and this process is {settings.layer}",
            fix="start the code location with its own environment",
        )
    return settings


def in_lane(
    context: dg.AssetExecutionContext, lane: Lane, work: Callable[[RunContext], Iterable[LaneResult]]
) -> Iterator[LaneResult]:
    """Do ``work`` with the context of this run while holding its lane, and yield its results; see ``holding``."""

    def with_run(settings: Settings, tenant: str, held: HeldLane) -> Iterator[LaneResult]:
        with open_run(settings, tenant, context.run.run_id, lane=held) as run:
            yield from work(run)

    return holding(context, lane, with_run)


def holding(
    context: dg.AssetExecutionContext,
    lane: Lane,
    work: Callable[[Settings, str, HeldLane], Iterable[LaneResult]],
    result: type[LaneResult] = dg.MaterializeResult,
) -> Iterator[LaneResult]:
    """Do ``work`` for this run's tenant while holding its lane, and yield its results.

    Where another run has the lane, a ``result`` of each selected asset says which run that is, and nothing was done.

    :raises dg.Failure: with a line that is safe to keep; Dagster does not retry, the sensors ask again after a pause.
    """
    failure: dg.Failure | None = None
    try:
        settings, tenant, run_id = settings_of(lane), context.partition_key, context.run.run_id
        load_tenant(settings.tenants, tenant)  # a partition that is no tenant goes no further, whoever added it
        context.instance.add_run_tags(run_id, {LANE_TAG: lane, TENANT_TAG: tenant})
        with (
            run_log(context.log.log, run_id=run_id, layer=settings.layer, lane=lane, tenant=tenant),
            hold_lane(settings.dsn, lane, tenant, run_id) as held,
            _failure_logged(),
        ):
            yield from work(settings, tenant, held)
    except LaneHeld as other:
        context.log.info("%s", other)
        who = _run(other.holder)
        for key in sorted(context.selected_asset_keys):
            yield result(asset_key=key, metadata={"lane_held_by": who})
    except Exception as error:  # noqa: BLE001 - whatever it is, its text must not reach the event log
        failure = dg.Failure(describe(error), allow_retries=False)
    except BaseException as stop:
        raise stop from None  # an interrupt may come while an exception with values is being handled
    if failure is not None:
        raise failure  # here and not above: an exception in hand would go along as its context


@contextmanager
def _failure_logged() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        structlog.get_logger().error(describe(error), code=getattr(error, "code", "defect"))
        raise


def _run(holder: str) -> dg.MetadataValue:
    try:
        return dg.MetadataValue.dagster_run(str(UUID(holder)))
    except ValueError:
        return dg.MetadataValue.text(holder)
