"""A tenant whose EHR is a real server with SMART on, and what decide would have left for commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from commit.faults import FaultyLine
from commit.world import World
from support import Database

from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.orchestration.run_context import utc_now
from fhir_writeback_dagster.sandbox.servers.sekmet import CLIENT_ID, Sekmet

SCOPES = ["system/*.cruds"]

EhrTenant = Callable[..., Tenant]


@pytest.fixture
def ehr_tenant(make_tenant: Callable[..., Tenant], home: Path, sekmet: Sekmet, client_key: str) -> EhrTenant:
    """``ehr_tenant(ehr={"bundle_size": 50})``: a tenant on ``sekmet`` with a good client key and everything automatic."""

    def make(name: str | None = None, **overrides: Any) -> Tenant:
        key = home / "keys" / "client.jwk"
        key.touch(mode=0o600)
        key.write_text(client_key, encoding="utf-8")
        auth = {"type": "smart_backend", "client_id": CLIENT_ID, "private_key": "file://keys/client.jwk", "scopes": SCOPES}
        ehr = {"base_url": sekmet.base_url, "sandbox": True, "timeout": "20s", "quiet": "1s", "auth": auth}
        ehr |= overrides.pop("ehr", {})
        return make_tenant(name, **({"ehr": ehr, "consent": {"none_found": "permit"}} | overrides))

    return make


@pytest.fixture
def make_world(
    ehr_tenant: EhrTenant, open_run: Callable[..., Any], sekmet: Sekmet, database: Database
) -> Iterator[Callable[..., World]]:
    """``make_world(ehr={…})``: a tenant with its EHR, and commit's workplace."""
    worlds: list[World] = []

    def make(clock: Callable[[], datetime] = utc_now, **overrides: Any) -> World:
        worlds.append(World(ehr_tenant(**overrides), open_run, sekmet, database.superuser, clock).open())
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@pytest.fixture
def line(sekmet: Sekmet) -> Iterator[FaultyLine]:
    """A line to ``sekmet`` on which things can go wrong."""
    with FaultyLine(sekmet.base_url) as faulty:
        yield faulty


@pytest.fixture
def faulty(make_world: Callable[..., World], line: FaultyLine) -> World:
    """A world whose EHR is reached over ``line``."""
    return make_world(ehr={"base_url": line.base_url})


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()
