"""The tenant's EHR as its matrix and the CapabilityStatement that commit keeps of it describe it; decide and commit ask it."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.orchestration.run_context import Workplace
from fhir_writeback_dagster.rules.target.capabilities import Target
from fhir_writeback_dagster.rules.target.matrix import load_vendor


def read_target(connection: Connection[Any], w: Workplace) -> Target:
    """:raises ConfigError: the tenant names a vendor that has no matrix."""
    row = connection.execute(
        "SELECT body FROM mirror.capability WHERE tenant = %s AND target = %s", (w.id, w.tenant.ehr.target)
    ).fetchone()
    return Target(load_vendor(w.tenant.ehr.vendor), row[0] if row else None)


def mirror_on_demand(w: Workplace) -> bool:
    """Does the mirror of this tenant's EHR hold only who was looked up?

    :raises ConfigError: the tenant names a vendor that has no matrix.
    """
    return load_vendor(w.tenant.ehr.vendor).on_demand
