"""One process of each counterpart, for all tests of this folder; a test uses patients of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from commit.world import World
from contract.counterparts import Counterpart, or_skip
from support import Database

from fhir_writeback_dagster.sandbox.fault_proxy.server import FaultProxy
from fhir_writeback_dagster.sandbox.servers.ehr_client import EhrClient
from fhir_writeback_dagster.sandbox.servers.hapi import Hapi
from fhir_writeback_dagster.sandbox.servers.node import Medplum
from fhir_writeback_dagster.sandbox.servers.sekmet import CLIENT_ID, Sekmet

SMART = {"type": "smart_backend", "client_id": CLIENT_ID, "private_key": "file://keys/client.jwk", "scopes": ["system/*.cruds"]}

ByName = Callable[[str], Counterpart]
_STANDING = ExitStack()
_KNOWN: dict[str, Counterpart] = {}


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The counterparts go with the last test of this folder: HAPI's 870 MB are not kept for the rest of the session."""
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        _KNOWN.clear()
        _STANDING.close()


@pytest.fixture(scope="session")
def counterpart(_open: Sekmet, _smart: tuple[Sekmet, str], tmp_path_factory: pytest.TempPathFactory) -> ByName:
    """``counterpart("medplum-5")``: started when it is first asked for."""

    def medplum(version: Any) -> Counterpart:
        folder = tmp_path_factory.mktemp(f"medplum-{version}")
        server = or_skip(lambda: _STANDING.enter_context(Medplum(folder, version)))
        return Counterpart(f"medplum-{version}", server.base_url, _STANDING.enter_context(EhrClient(server.base_url)))

    def hapi() -> Counterpart:
        server = or_skip(lambda: _STANDING.enter_context(Hapi(tmp_path_factory.mktemp("hapi"))))
        return Counterpart("hapi", server.base_url, server.chart)

    makers: dict[str, Callable[[], Counterpart]] = {
        "sekmet": lambda: Counterpart("sekmet", _open.base_url, _open.chart),
        "sekmet-smart": lambda: Counterpart("sekmet-smart", _smart[0].base_url, _smart[0].chart, SMART, _smart[1]),
        "hapi": hapi,
        "medplum-5": lambda: medplum(5),
        "medplum-4": lambda: medplum(4),
    }

    def get(name: str) -> Counterpart:
        if name not in _KNOWN:
            _KNOWN[name] = makers[name]()
        return _KNOWN[name]

    return get


@pytest.fixture(scope="session")
def proxy(_open: Sekmet) -> Iterator[FaultProxy]:
    with FaultProxy(_open.base_url) as standing:
        yield standing


@pytest.fixture
def world_on(
    make_tenant: Callable[..., Any], open_run: Callable[..., Any], home: Path, database: Database
) -> Iterator[Callable[..., World]]:
    """``world_on(counterpart, vendor="epic")``: a tenant of that vendor on it, and commit's workplace."""
    worlds: list[World] = []

    def make(there: Counterpart, vendor: str = "generic", base_url: str | None = None, **ehr: Any) -> World:
        key = home / "keys" / "client.jwk"
        key.touch(mode=0o600)
        key.write_text(there.key, encoding="utf-8")
        told = {"base_url": base_url or there.base_url, "sandbox": True, "vendor": vendor, "auth": there.auth}
        tenant = make_tenant(ehr={"timeout": "20s", "quiet": "0s", **told, **ehr}, consent={"source": "organisation"} | PERMIT)
        worlds.append(World(tenant, open_run, there, database.superuser).open())  # type: ignore[arg-type]
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


PERMIT = {"none_found": "permit"}
