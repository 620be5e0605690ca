"""What waits for a run of ingest, as a sensor may know it: one query for all tenants, a listing a zone, and no key.

A run leaves behind how it found each zone (``landing.zone``). A zone that looks otherwise now holds something that no run has
dealt with, or lost something: then a run looks, and finds nothing to do.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.config.settings import Settings
from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.ingest.landing.listing import ListedZone, list_zones
from fhir_writeback_dagster.orchestration.run_context import RunContext

#: How long a size must stay where the tenant chose `complete_by: stable_size`.
STABLE_FOR = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class ZoneState:
    """How a run left a zone, and how many extracts landed from it and are not read; ``oldest`` is the first of these."""

    listing: bytes | None
    look_again_at: datetime | None
    landed: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """``items`` are files in zones that changed, and landed extracts; ``mark`` changes with what waits."""

    items: int
    mark: str

    @property
    def tag(self) -> str:
        return f"{self.items}.{self.mark}"


States = Mapping[str, Mapping[str, ZoneState]]
"""By tenant and source."""


def read_states(connection: Connection[Any]) -> States:
    """Of all tenants, by a layer's login."""
    states: dict[str, dict[str, ZoneState]] = defaultdict(dict)
    for tenant, source, listing, again, landed, oldest in connection.execute(
        "SELECT tenant, source, listing, look_again_at, landed, oldest FROM ops.zones()"
    ):
        states[tenant][source] = ZoneState(None if listing is None else bytes(listing), again, landed, oldest)
    return states


def waiting(
    settings: Settings, tenant: Tenant, states: States, now: datetime, everybodys: Mapping[str, set[str]] | None = None
) -> Waiting | None:
    """What waits for a run of the tenant; None: nothing does.

    A source that cannot be used counts nothing, or it would ask for runs for ever; a run's report names it.
    """
    mark, items = hashlib.sha256(), 0
    known = states.get(tenant.tenant, {})
    for listed in list_zones(settings, tenant, [], everybodys):
        state = known.get(listed.source, ZoneState(None, None, 0, None))
        if _has_something(listed, state, now):
            mark.update(listed.digest())
            items += len(listed.deliveries)
        if state.landed:
            mark.update(f"{listed.source}|{state.landed}|{state.oldest}".encode())
            items += state.landed
    return Waiting(items, mark.hexdigest()[:12]) if items else None


def _has_something(listed: ListedZone, state: ZoneState, now: datetime) -> bool:
    if not listed.deliveries:
        return False
    if state.listing == listed.digest():
        return state.look_again_at is not None and state.look_again_at <= now
    if listed.zone.complete_by != "stable_size":
        return True
    # While a file grows, every listing is another: no run has to look at each. A zone whose clock is ahead is looked at at once.
    youngest = now.timestamp() - max(delivery.changed for delivery in listed.deliveries)
    return not 0 <= youngest < STABLE_FOR.total_seconds()


def remember_listing(connection: Connection[Any], run: RunContext, listed: ListedZone, *, unsettled: bool) -> None:
    """Every file of ``listed`` was dealt with, but those whose size must stay for a while first, if some are ``unsettled``."""
    connection.execute(
        "INSERT INTO landing.zone (tenant, source, listing, look_again_at, looked_at) VALUES (%s, %s, %s, %s, %s) "
        "ON CONFLICT (tenant, source) DO UPDATE SET listing = excluded.listing, look_again_at = excluded.look_again_at, "
        "looked_at = excluded.looked_at",
        (run.id, listed.source, listed.digest(), run.now() + STABLE_FOR if unsettled else None, run.now()),
    )
