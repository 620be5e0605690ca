"""The FHIR servers that a drill can run on, behind one face."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.sandbox.fault_proxy.server import FaultProxy
from fhir_writeback_dagster.sandbox.keys import make_client_key
from fhir_writeback_dagster.sandbox.servers.ehr_client import EhrClient
from fhir_writeback_dagster.sandbox.servers.hapi import Hapi
from fhir_writeback_dagster.sandbox.servers.node import Medplum
from fhir_writeback_dagster.sandbox.servers.sekmet import CLIENT_ID, Sekmet

#: sekmet lets nobody send a bundle who may not do everything.
_ANY = "system/*.cruds"
SERVERS = ("sekmet", "hapi", "medplum")


class Restartable(Protocol):
    """A server that comes up again with what it had committed."""

    def kill(self) -> None: ...
    def start(self) -> object: ...


@dataclass(frozen=True, slots=True)
class DrillServer:
    """``chart`` reads and writes it directly, past the proxy. ``vendor`` and ``auth`` are what a tenant's file says of it,
    ``private_jwk`` the key that goes with it. ``restartable`` is None for one that forgets everything when it is killed.
    """

    name: str
    chart: EhrClient
    vendor: str = "generic"
    auth: dict[str, Any] = field(default_factory=lambda: {"type": "none"})
    private_jwk: str = ""
    restartable: Restartable | None = None


@contextmanager
def open_server(name: str, folder: Path, proxy: FaultProxy) -> Iterator[DrillServer]:
    """The server runs while the block does, and ``proxy`` leads to it.

    :raises ConfigError: a server that is not known, or not on this machine.
    :raises ServiceError: it does not start.
    """
    if name == "sekmet":
        private, jwks = make_client_key()
        public = proxy.base_url.removesuffix("/fhir")
        with Sekmet(folder, client_jwks=jwks, client_scopes=_ANY, public_url=public) as sekmet:
            proxy.lead_to(sekmet.base_url)
            auth = {"type": "smart_backend", "client_id": CLIENT_ID, "private_key": "file://keys/client.jwk", "scopes": [_ANY]}
            yield DrillServer(name, sekmet.chart, "generic", auth, private, sekmet)
    elif name == "hapi":
        with Hapi(folder) as hapi:
            proxy.lead_to(hapi.base_url)
            yield DrillServer(name, hapi.chart, "hapi")
    elif name == "medplum":
        with Medplum(folder) as medplum, EhrClient(medplum.base_url) as chart:
            proxy.lead_to(medplum.base_url)
            yield DrillServer(name, chart, "medplum")
    else:
        raise ConfigError("unknown_server", f"no server {name}", fix=f"known: {', '.join(SERVERS)}")
