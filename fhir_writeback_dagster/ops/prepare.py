"""Make Dagster's storage, and its tenant partitions equal to the tenants given, once and before any server starts.

``python -m fhir_writeback_dagster.ops.prepare [tenant …]`` in Dagster's environment. Four servers that met an empty storage
at the same time would race for its tables. A process of its own, because importing Dagster costs the runner 100 MB.
"""

from __future__ import annotations

import sys

import dagster as dg

from fhir_writeback_dagster.orchestration.partitions import sync_tenants


def main(tenants: list[str]) -> None:
    with dg.DagsterInstance.get() as instance:
        instance.upgrade()
        sync_tenants(instance, tenants)


if __name__ == "__main__":
    main(sys.argv[1:])
