"""The adapter of a tenant's EHR: the module that its vendor's matrix names."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from fhir_writeback_dagster.commit.adapters.base import Adapter
from fhir_writeback_dagster.commit.adapters.generic import Generic
from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.rules.target.capabilities import Target


def adapter_for(target: Target, tenant: Tenant) -> Adapter:
    """:raises ConfigError: the matrix names a module that is not there."""
    name = target.vendor.module
    if name == "generic":
        return Generic(target, tenant.identifier_system)
    try:
        module = import_module(f"fhir_writeback_dagster.commit.adapters.{name}")
    except ModuleNotFoundError:
        raise ConfigError(
            "no_adapter",
            f"no adapter module {name}",
            where=f"rules/vendors/{target.vendor.vendor}.yaml module",
            fix="write commit/adapters/<module>.py with a function `make`; docs/adding-an-ehr.md",
        ) from None
    return cast("Adapter", module.make(target, tenant))
