"""Everything up: the database and the services, as `up` and the demo use them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fhir_writeback_dagster.ops import lock, webtoken
from fhir_writeback_dagster.ops.configuration import Configuration
from fhir_writeback_dagster.ops.database import InstallationDatabase, Progress, open_database
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.lock import Lock
from fhir_writeback_dagster.ops.provision import Dsns
from fhir_writeback_dagster.ops.services import Services, serving

LOCK = "services.lock"


@dataclass(frozen=True, slots=True)
class Running:
    """What runs. ``state`` is the project's state folder, with the logs."""

    state: StateFolder
    database: InstallationDatabase
    services: Services
    progress: Progress

    @property
    def dsns(self) -> Dsns:
        return self.database.dsns

    @property
    def web_url(self) -> str:
        """Where Dagster's page is."""
        return self.services.web_url

    def link(self) -> str:
        """A new link that opens Dagster's page, once."""
        return webtoken.link(self.state, self.web_url)

    def web_headers(self) -> dict[str, str]:
        """What a tool sends with each request to Dagster's page."""
        return webtoken.headers(self.state)

    def tend(self) -> None:
        """Start again what died, and tell of it. Call it about every second, from the thread that started them.

        :raises ServiceError: PostgreSQL died and does not start again.
        """
        if self.database.postgres and (reason := self.database.postgres.revive()):
            self.progress(f"{reason}; it was started again")
        self.services.tend()


def link_of_running(state: StateFolder) -> str | None:
    """A new link to the page of the `up` or demo that runs on this project now; None where none does."""
    url = (lock.read(state.path / LOCK) or {}).get("web_url")
    return webtoken.link(state, str(url)) if url else None


@contextmanager
def running(config: Configuration, progress: Progress, *, dagster: bool = True, durable: bool = True) -> Iterator[Running]:
    """Everything up and answering while the block runs; no process and no listener of it is left afterwards.

    ``dagster=False`` leaves out Dagster's daemon and webserver. ``durable=False`` is for tests.

    :raises ServiceError: a port is taken, a path cannot be used, another `up` runs here, or something does not start.
    """
    state = StateFolder(config.home)
    mine = Lock(state.path / LOCK, "this project's services")
    try:
        with (
            open_database(config, state, progress, own=True, durable=durable) as database,
            serving(config, state, database.dsns, progress, dagster=dagster) as services,
        ):
            for warning in services.warnings:
                progress(f"warning: {warning}")
            mine.publish(up=True, **({"web_url": services.web_url} if dagster else {}))
            yield Running(state, database, services, progress)
    finally:
        mine.release()
