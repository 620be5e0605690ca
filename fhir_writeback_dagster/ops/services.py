"""The services of `up` and of the demo: four code locations, Dagster's daemon and its webserver, started, watched, ended.

Each is a process in a session of its own with an environment of its own. Dagster's `workspace.yaml` cannot give a code
location an environment, which is why the locations are ``dagster api grpc`` servers that are started here (library facts).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from fhir_writeback_dagster.config.settings import Layer
from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops import probe, web, webtoken
from fhir_writeback_dagster.ops.configuration import LOCATIONS, Configuration
from fhir_writeback_dagster.ops.dagsterhome import dagster_home, prepare_dagster
from fhir_writeback_dagster.ops.database import Progress, register
from fhir_writeback_dagster.ops.environment import dagster_environment, layer_environment
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.ports import HOST, claim
from fhir_writeback_dagster.ops.process import Child, Program, died
from fhir_writeback_dagster.ops.provision import Dsns
from fhir_writeback_dagster.ops.signals import undisturbed
from fhir_writeback_dagster.ops.sockets import claim_socket, forget_sockets, socket_of

START_S = 120
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
HEALTHY_S = 60.0


@dataclass(slots=True)
class Service:
    """One of them; ``ready`` tells whether it answers."""

    program: Program
    ready: Callable[[], bool]
    child: Child | None = None
    started: float = 0.0
    failures: int = 0
    again_at: float = 0.0


class Services:
    """All that runs beside the database; use :func:`serving`.

    ``web_url`` is the address of Dagster's page, ``warnings`` what is wrong with tenants' files
    and secrets: these tenants stand still and the others go on.
    """

    def __init__(self, config: Configuration, state: StateFolder, dsns: Dsns, progress: Progress) -> None:
        """:raises ServiceError: a port is taken, or a file of Dagster is missing."""
        self.config, self.state, self.dsns, self._progress = config, state, dsns, progress
        self._port = claim("Dagster's page", config.ports["web"], "FHIR_WRITEBACK_PORT_WEB")
        self.web_url = f"http://{HOST}:{self._port}"
        self.folder = dagster_home(config, state)
        self.tenants, bad = config.tenants()
        self.warnings: list[str] = [str(error) for error in bad]
        self._services: list[Service] = []

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each service that was started, by name."""
        return {service.program.name: service.child.pid for service in self._services if service.child}

    def start(self, *, dagster: bool = True) -> None:
        """Start everything and wait until it answers; ``dagster=False`` leaves out the daemon and the webserver.

        :raises ServiceError: one of them ends or does not answer in time.
        """
        register(self.dsns, [tenant.tenant for tenant in self.tenants])
        self._progress("preparing Dagster's storage")
        prepare_dagster(self.config, self.state, self.dsns, [tenant.tenant for tenant in self.tenants])
        for layer in LOCATIONS:
            claim_socket(self.config.home, layer)
        self._progress(f"starting the code locations {', '.join(LOCATIONS)}")
        self._start_all([self._location(layer) for layer in LOCATIONS])
        if dagster:
            self._progress("starting Dagster's daemon and webserver")
            self._start_all([self._daemon(), self._webserver()])

    def tend(self) -> None:
        """Look after them: tell of one that died and start it again, with a growing pause. Call it about every second."""
        now = time.monotonic()
        for service in self._services:
            if service.child is None:
                if now >= service.again_at:
                    self._progress(f"starting {service.program.name} again")
                    self._launch(service)
            elif service.child.exit_code is not None:
                service.failures = 1 if now - service.started > HEALTHY_S else service.failures + 1
                pause = min(FIRST_PAUSE_S * 2 ** (service.failures - 1), LONGEST_PAUSE_S)
                self._progress(f"{died(service.child)}; it is started again in {pause:.0f} s")
                service.child.stop()  # what it had started goes with it
                service.child, service.again_at = None, now + pause

    def stop(self) -> None:
        """End everything, in reverse order; when it returns no process and no listener is left."""
        with undisturbed():
            children = [service.child for service in reversed(self._services) if service.child]
            for child in children:
                child.ask_to_stop()
            for child in children:
                child.stop()
            self._services.clear()
            forget_sockets(self.config.home)

    def environment(self) -> dict[str, str]:
        """For a command of Dagster's beside these services (`exec`): no layer's login and no tenant's secret."""
        return self._dagster()

    def _start_all(self, services: list[Service]) -> None:
        for service in services:
            with undisturbed():
                self._services.append(service)
                self._launch(service)
        deadline = time.monotonic() + START_S
        for service in services:
            while not service.ready():
                if service.child and service.child.exit_code is not None:
                    raise died(service.child)
                if time.monotonic() > deadline:
                    raise ServiceError(
                        "not_ready",
                        f"{service.program.name} did not answer in {START_S} s",
                        where=str(service.program.log),
                        fix="the log has the rest",
                    )
                time.sleep(0.1)

    def _launch(self, service: Service) -> None:
        with undisturbed():
            service.child, service.started = Child(service.program), time.monotonic()

    def _location(self, layer: Layer) -> Service:
        environment, missing = layer_environment(self.config, self.state, self.dsns, layer, self.tenants)
        self.warnings += [text for error in missing if (text := str(error)) not in self.warnings]
        socket = socket_of(self.config.home, layer)
        arguments = ["-m", "fhir_writeback_dagster.ops.codeserver", layer, str(socket)]
        return Service(self._program(f"the {layer} location", arguments, environment), lambda: probe.code_location(socket))

    def _daemon(self) -> Service:
        arguments = ["-m", "dagster._daemon", "run", "-w", str(self.folder / "workspace.yaml"), "--log-level", "warning"]
        return Service(self._program("Dagster's daemon", arguments, self._dagster()), lambda: True)

    def _webserver(self) -> Service:
        secret = webtoken.make_secret(self.state)
        arguments = ["-m", "fhir_writeback_dagster.ops.web", str(self._port), str(secret), str(self.folder / "workspace.yaml")]
        own = {name: value for name in (web.HOSTS, web.TOKEN) if (value := self.config.environment.get(name))}
        program = self._program("Dagster's webserver", arguments, self._dagster() | own)
        return Service(program, lambda: probe.webserver(self.web_url, webtoken.headers(self.state)))

    def _dagster(self) -> dict[str, str]:
        return dagster_environment(self.state, self.dsns)

    def _program(self, name: str, arguments: list[str], environment: Mapping[str, str]) -> Program:
        # The working folder has no `.env`: Dagster's commands read one there, and the user's holds every layer's login.
        return Program(name, [sys.executable, *arguments], environment, self.state.log(name), self.folder)


@contextmanager
def serving(
    config: Configuration, state: StateFolder, dsns: Dsns, progress: Progress, *, dagster: bool = True
) -> Iterator[Services]:
    """Everything up and answering while the block runs, and gone afterwards, however it ends."""
    services = Services(config, state, dsns, progress)
    try:
        services.start(dagster=dagster)
        yield services
    finally:
        services.stop()
