"""What keeps a tenant's sources from being read at all: said by `run` and `status` before anybody waits for rows in vain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.errors import ConfigError, describe
from fhir_writeback_dagster.ingest.contracts.sources import source_of
from fhir_writeback_dagster.ingest.landing.places import place_of
from fhir_writeback_dagster.ingest.landing.zones import check_own, owners


def source_faults(home: Path, tenant: Tenant) -> list[str]:
    """A line for each source whose contract is invalid or does not fit, or whose zone is none or another tenant's too."""
    return list(_faults(home, tenant, owners(home, home / "tenants")))


def _faults(home: Path, tenant: Tenant, everybodys: Mapping[str, set[str]]) -> dict[str, None]:
    found: dict[str, None] = {}
    for source, use in tenant.sources.items():
        try:
            check_own(place_of(home, use.landing), tenant.tenant, everybodys)
            source_of(home / "mappings", tenant, source)
        except ConfigError as error:
            where = error.where or f"tenants/{tenant.tenant}.yaml: sources.{source}"
            found[str(ConfigError(error.code, error.message, where=where, fix=error.fix))] = None
        except Exception as error:  # noqa: BLE001 - one contract never hides what is wrong with the next
            found[f"{tenant.tenant}: {source}: {describe(error)}"] = None
    return found
