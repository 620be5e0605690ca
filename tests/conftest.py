"""Real parts for every test: a PostgreSQL, a project home, tenants, and what a run of a layer works with.

``database``     a migrated database with a login for every layer; one a session
``home``         a project home of the test's own, with the shipped mappings, expectations and policies
``make_tenant``  ``make_tenant("mercy", ehr={"base_url": …})``: file, keys, landing folders, registered, without any data
``open_run``     ``with open_run("ingest", tenant) as run``
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from support import Database, make_home, open_layer, write_tenant
from xdist.scheduler import LoadFileScheduling

from fhir_writeback_dagster.config.settings import Layer
from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.postgres import Postgres
from fhir_writeback_dagster.ops.provision import provision
from fhir_writeback_dagster.orchestration.run_context import RunContext, utc_now

if TYPE_CHECKING:
    from xdist.remote import Producer

pytest_plugins = ["sandbox_fixtures"]

#: Fixtures that start a server, and folders whose tests start one themselves: all of these are the tier ``service``.
_SERVERS = {"database", "sekmet", "open_sekmet", "instance", "dagster_home"}
_FOLDERS = ("contract", "dagster", "e2e", "ops", "sandbox/drills", "sandbox/fault_proxy", "sandbox/servers", "commit")

_numbers = itertools.count(1)


class MakeTenant(Protocol):
    def __call__(self, name: str | None = None, **overrides: Any) -> Tenant: ...


class OpenLayer(Protocol):
    def __call__(
        self, layer: Layer, tenant: Tenant | str, now: Callable[[], datetime] = utc_now, run_id: str = "test-run"
    ) -> AbstractContextManager[RunContext]: ...


class _ByFileOrCounterparts(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """The tests of one file go to one process, and all that need the contract tests' servers: those are started once."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "tests/contract" if file.startswith("tests/contract/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return _ByFileOrCounterparts(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test belongs to one tier: ``service`` where a real server takes part, else ``unit``.

    The order of tests is random, but that of a module with ``IN_ORDER`` is the file's: such a module says what its tests share.
    """
    ordered = [n for n, item in enumerate(items) if getattr(getattr(item, "module", None), "IN_ORDER", False)]
    as_written = sorted((items[n] for n in ordered), key=lambda item: (item.path.as_posix(), item.reportinfo()[1] or 0))
    for n, item in zip(ordered, as_written, strict=True):
        items[n] = item
    here = Path(__file__).parent
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        folder = item.path.relative_to(here).as_posix()
        served = fixtures & _SERVERS or folder.startswith(tuple(f"{name}/" for name in _FOLDERS))
        item.add_marker(pytest.mark.service if served else pytest.mark.unit)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    state = StateFolder(tmp_path_factory.mktemp("postgres"))
    postgres = Postgres(state, durable=False)
    try:
        yield Database(postgres, provision(postgres.superuser, postgres.port, state))
    finally:
        postgres.destroy()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return make_home(folder)


@pytest.fixture
def make_tenant(database: Database, home: Path) -> MakeTenant:
    def make(name: str | None = None, **overrides: Any) -> Tenant:
        tenant = write_tenant(home, name or f"t{next(_numbers)}", overrides)
        database.register(tenant.tenant)
        return tenant

    return make


@pytest.fixture
def open_run(database: Database, home: Path) -> OpenLayer:
    def open_it(
        layer: Layer, tenant: Tenant | str, now: Callable[[], datetime] = utc_now, run_id: str = "test-run"
    ) -> AbstractContextManager[RunContext]:
        return open_layer(home, database, layer, tenant if isinstance(tenant, str) else tenant.tenant, now, run_id)

    return open_it
