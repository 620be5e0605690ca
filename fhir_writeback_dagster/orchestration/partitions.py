"""Every asset is partitioned by tenant; the keys follow ``tenants/*.yaml`` without a restart of anything.

Dynamic, because a static key needs a restart of every code location and a backfill fails while they disagree (measured,
Dagster 1.13).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg
from psycopg import Connection

TENANTS = dg.DynamicPartitionsDefinition(name="tenant")


def changes(present: Sequence[str], wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Keys to add and keys to remove so that ``present`` becomes ``wanted``, each sorted."""
    return sorted(set(wanted) - set(present)), sorted(set(present) - set(wanted))


def sync_tenants(instance: dg.DagsterInstance, ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Make the partition keys equal to ``ids``; returns what was added and removed. The history of a key stays."""
    add, remove = changes(instance.get_dynamic_partitions(name()), ids)
    if add:
        instance.add_dynamic_partitions(name(), add)
    for key in remove:
        instance.delete_dynamic_partition(name(), key)
    return add, remove


def name() -> str:
    """The name that Dagster's storage knows the keys by."""
    if TENANTS.name is None:
        raise TypeError("the tenant partitions have a name")
    return TENANTS.name


def register_tenants(connection: Connection[Any], ids: Sequence[str]) -> list[str]:
    """Make the database roles of each tenant that has none yet, by a layer's login; returns those."""
    rows = connection.execute(
        "SELECT t FROM unnest(%s::text[]) AS t WHERE t NOT IN (SELECT ops.tenants()) AND ops.register_tenant(t)", (list(ids),)
    )
    return sorted(row[0] for row in rows)
