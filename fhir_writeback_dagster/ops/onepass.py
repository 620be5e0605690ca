"""One run of one lane for one tenant in this process, without daemon or code server, through the same assets.

``python -m fhir_writeback_dagster.ops.onepass <lane> <tenant>``, in the environment of the lane's layer and with
``DAGSTER_HOME`` set, so that the run is recorded beside all others. One JSON line of counts goes to stdout; what went wrong is
the last line on stderr, and the exit code is 1.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import dagster as dg

from fhir_writeback_dagster.config import settings
from fhir_writeback_dagster.config.tenants import load_tenant
from fhir_writeback_dagster.errors import ConfigError, WritebackError, describe
from fhir_writeback_dagster.ops.signals import stoppable
from fhir_writeback_dagster.orchestration.lanes import LANES, LAYER_OF, Lane
from fhir_writeback_dagster.orchestration.partitions import name as partitions_name

# What happened is in Dagster's storage and in our one line; its console logger would print each event of it.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_STOPPED = "stopped [stopped] — nothing is lost; the next run goes on"


def one_run(instance: dg.DagsterInstance, lane: Lane, tenant: str) -> dict[str, Any]:
    """Materialise the lane's assets for ``tenant``: ``{"ok", "lane", "tenant", "run_id", "error", "assets": {key: metadata}}``.

    :raises ConfigError: an unknown or bad tenant.
    """
    load_tenant(settings.home() / "tenants", tenant)
    if not instance.has_dynamic_partition(partitions_name(), tenant):
        instance.add_dynamic_partitions(partitions_name(), [tenant])
    defs: dg.Definitions = import_module(f"fhir_writeback_dagster.locations.{LAYER_OF[lane]}").defs
    result = defs.resolve_job_def(f"{lane}_job").execute_in_process(
        partition_key=tenant, instance=instance, run_config=_QUIET, raise_on_error=False
    )
    seen: list[dg.AssetMaterialization | dg.AssetObservation] = [
        *(event.materialization for event in result.get_asset_materialization_events()),
        *(event.asset_observation_data.asset_observation for event in result.get_asset_observation_events()),
    ]
    assets = {m.asset_key.to_user_string(): {key: value.value for key, value in m.metadata.items()} for m in seen}
    return {
        "ok": result.success,
        "lane": lane,
        "tenant": tenant,
        "run_id": result.run_id,
        "error": None if result.success else _error(result),
        "assets": assets,
    }


def _error(result: dg.ExecuteInProcessResult) -> str:
    """The line that the lane failed with; other failures of Dagster's own are told by class, as their text is not ours."""
    for event in result.all_events:
        if event.is_step_failure:
            failure = event.step_failure_data
            if failure.user_failure_data and failure.user_failure_data.description:
                return failure.user_failure_data.description
            if failure.error and failure.error.cls_name == dg.DagsterExecutionInterruptedError.__name__:
                return _STOPPED
            if failure.error:
                return f"{failure.error.cls_name} [run_failed] — the run's page in Dagster has the rest"
    return "the run failed before its first step [run_failed] — the run's page in Dagster has the rest"


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit code."""
    from fhir_writeback_dagster.ops import privacy  # noqa: F401 - importing it is what it is for

    try:
        lane, tenant = _lane_and_tenant(arguments)
        with stoppable(), _instance() as instance:
            said = one_run(instance, lane, tenant)
    except KeyboardInterrupt:
        print(f"error: {_STOPPED}", file=sys.stderr)  # noqa: T201
        return 1
    except Exception as error:  # noqa: BLE001 - the last resort of a command: one line, never a traceback with values
        print(f"error: {describe(error)}", file=sys.stderr)  # noqa: T201
        return 1
    print(json.dumps(said, default=str), flush=True)  # noqa: T201
    if not said["ok"]:
        print(f"error: {said['error']}", file=sys.stderr)  # noqa: T201
    return 0 if said["ok"] else 1


def _lane_and_tenant(arguments: Sequence[str]) -> tuple[Lane, str]:
    lane = next((known for known in LANES if arguments and known == arguments[0]), None)
    if lane is None or len(arguments) != 2:
        raise WritebackError("usage", "expected a lane and a tenant", fix=f"a lane is one of {', '.join(LANES)}")
    return lane, arguments[1]


def _instance() -> dg.DagsterInstance:
    if not os.environ.get("DAGSTER_HOME"):
        raise ConfigError("no_dagster_home", "DAGSTER_HOME is not set", fix="`fhir-writeback run` sets it")
    return dg.DagsterInstance.get()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
