"""What drills share: a home folder, a PostgreSQL, a FHIR server, and the fault proxy that stands before it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fhir_writeback_dagster.ops.database import Progress
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.postgres import Postgres, forget
from fhir_writeback_dagster.ops.provision import Dsns, provision
from fhir_writeback_dagster.ops.signals import undisturbed
from fhir_writeback_dagster.sandbox.demo_home import link_shipped
from fhir_writeback_dagster.sandbox.drills.clock import Clock
from fhir_writeback_dagster.sandbox.drills.servers import DrillServer, open_server
from fhir_writeback_dagster.sandbox.fault_proxy.server import FaultProxy


@dataclass(slots=True)
class DrillEnvironment:
    """``drills`` counts those that were played, so that each has a tenant and patients of its own."""

    home: Path
    state: StateFolder
    postgres: Postgres
    dsns: Dsns
    server: DrillServer
    proxy: FaultProxy
    progress: Progress
    drills: int = 0

    @property
    def clock(self) -> Clock:
        return Clock(self.home)


@contextmanager
def open_stage(server: str, progress: Progress, *, durable: bool = True) -> Iterator[DrillEnvironment]:
    """Everything is up while the block runs; nothing is left afterwards.

    :param durable: False leaves out fsync: for tests. A killed PostgreSQL loses nothing either way, a machine without power may.
    """
    with ExitStack() as stack:
        home = stack.enter_context(_home())
        state = StateFolder(home)
        proxy = stack.enter_context(FaultProxy())
        progress(f"starting {server} and a PostgreSQL")
        running = stack.enter_context(open_server(server, home / "ehr", proxy))
        postgres = Postgres(state, durable=durable)
        stack.callback(postgres.destroy)
        dsns = provision(postgres.superuser, postgres.port, state)
        yield DrillEnvironment(home, state, postgres, dsns, running, proxy, progress)


@contextmanager
def _home() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="fhir-writeback-drill-")).resolve()
    try:
        link_shipped(made)
        for name in ("tenants", "keys", "landing"):
            (made / name).mkdir(mode=0o700)
        yield made
    finally:
        with undisturbed():
            forget(made)
            shutil.rmtree(made, ignore_errors=True)
