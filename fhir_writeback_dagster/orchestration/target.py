"""The tenant's EHR as its matrix and the CapabilityStatement that commit keeps of it describe it; decide and commit ask it."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.target.capabilities import Target
from fhir_writeback_dagster.rules.target.matrix import load_vendor


def read_target(connection: Connection[Any], run: RunContext) -> Target:
    """:raises ConfigError: the tenant names a vendor that has no matrix."""
    row = connection.execute(
        "SELECT body FROM mirror.capability WHERE tenant = %s AND target = %s", (run.id, run.tenant.ehr.target)
    ).fetchone()
    return Target(load_vendor(run.tenant.ehr.vendor), row[0] if row else None)


def mirror_on_demand(run: RunContext) -> bool:
    """Does the mirror of this tenant's EHR hold only who was looked up?

    :raises ConfigError: the tenant names a vendor that has no matrix.
    """
    return load_vendor(run.tenant.ehr.vendor).on_demand
