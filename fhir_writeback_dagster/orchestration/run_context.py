"""What one run of one layer works with: a tenant's configuration, its keys and the layer's database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from fhir_writeback_dagster.config.secrets import resolve
from fhir_writeback_dagster.config.settings import Layer, Settings
from fhir_writeback_dagster.config.tenants import Tenant, load_tenant
from fhir_writeback_dagster.store.db import HeldLane, Store
from fhir_writeback_dagster.store.sealing import Identity, Sealer


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class RunContext:
    """One tenant in one layer; ``now`` is the clock (UTC)."""

    settings: Settings
    tenant: Tenant
    store: Store
    sealer: Sealer
    identity: Identity
    run_id: str
    now: Callable[[], datetime] = utc_now
    lane: HeldLane | None = None
    """What the run holds, where it is a run of a lane."""

    @property
    def id(self) -> str:
        return self.tenant.tenant


@contextmanager
def open_run(
    settings: Settings,
    tenant_id: str,
    run_id: str,
    now: Callable[[], datetime] = utc_now,
    lane: HeldLane | None = None,
) -> Iterator[RunContext]:
    """Load the tenant, resolve its keys and open the layer's database.

    :raises ConfigError: the tenant's file or a secret reference is wrong.
    :raises ServiceError: the database does not answer, or the tenant is not registered there.
    """
    tenant = load_tenant(settings.tenants, tenant_id)
    sealer = Sealer(tenant_id, resolve(tenant.keys.sealing, settings.home).key(), now)
    identity = Identity([resolve(reference, settings.home).key() for reference in tenant.keys.identity])
    with Store(settings.dsn, settings.layer) as store:
        with store.tenant(tenant_id) as connection:
            sealer.prepare(connection)
        yield RunContext(settings, tenant, store, sealer, identity, run_id, now, lane)


OpenRuns = Callable[[Layer, str | None], AbstractContextManager[Iterator[RunContext]]]
"""How a command comes to work as a layer: for one tenant, or for all of the project, with its database up. A layer's commands
get it as click's context object, because the layers know nothing of what starts databases."""
