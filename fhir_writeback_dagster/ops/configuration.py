"""What the user configured: the environment over ``<home>/.env``; with nothing in either, everything is embedded.

=========================================  ===============================================================================
``FHIR_WRITEBACK_DSN_<LAYER>``             logins of the ledger's database: INGEST, DECIDE, COMMIT, AUDIT, STATUS, MIGRATOR
``FHIR_WRITEBACK_DSN_DAGSTER``             the login of Dagster's own database
``FHIR_WRITEBACK_PORT_<SERVICE>``          POSTGRES (embedded), WEB; 0 takes a free one
``FHIR_WRITEBACK_<LAYER>__<NAME>``         the variable NAME of that layer's processes only
=========================================  ===============================================================================
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from fhir_writeback_dagster.config.settings import LAYERS, Layer
from fhir_writeback_dagster.config.tenants import Tenant, load_tenant, tenant_ids
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.ops.folder import refuse_exposed
from fhir_writeback_dagster.ops.provision import Dsns

LOCATIONS: tuple[Layer, ...] = ("ingest", "decide", "commit", "audit")
PORTS: Mapping[str, int] = {"postgres": 5480, "web": 3000}
ANY_PORT: Mapping[str, int] = dict.fromkeys(PORTS, 0)

_LOGINS = (*LAYERS, "dagster")


@dataclass(frozen=True, slots=True, repr=False)
class Configuration:
    """``environment`` is the user's own; no child process gets it as it is. ``ports``: a name of :data:`PORTS` to a number.
    ``written`` are the names that `.env` sets.
    """

    home: Path
    environment: Mapping[str, str]
    ports: Mapping[str, int]
    written: frozenset[str] = frozenset()

    @property
    def dsns(self) -> Dsns | None:
        """The configured logins; None where none is, and the embedded database is used.

        :raises ConfigError: some are set and some are not.
        """
        names = (*_LOGINS, "migrator")
        found = {name: dsn for name in names if (dsn := self.environment.get(f"FHIR_WRITEBACK_DSN_{name.upper()}"))}
        missing = [f"FHIR_WRITEBACK_DSN_{name.upper()}" for name in _LOGINS if name not in found]
        if found and missing:
            raise ConfigError(
                "dsn_missing",
                f"some database logins are configured, but not {', '.join(missing)}",
                where="environment and .env",
                fix="set these too, or none for the embedded PostgreSQL",
            )
        return Dsns(found) if found else None

    def tenants(self) -> tuple[list[Tenant], list[ConfigError]]:
        """Every tenant that can be read, and what is wrong with the others: one bad file stops no other tenant."""
        good: list[Tenant] = []
        bad: list[ConfigError] = []
        for name in tenant_ids(self.home / "tenants"):
            try:
                good.append(load_tenant(self.home / "tenants", name))
            except ConfigError as error:
                bad.append(error)
        return good, bad


def load_configuration(
    home: Path, environment: Mapping[str, str] | None = None, ports: Mapping[str, int] = PORTS
) -> Configuration:
    """Read ``<home>/.env`` under ``environment`` (default: this process's own).

    :raises ConfigError: a port is not a number, or `.env` cannot be read.
    :raises ServiceError: others may read `.env`.
    """
    path = home / ".env"
    try:
        written = read_env_file(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("file_unreadable", type(error).__name__, where=str(path), fix="make it readable UTF-8") from None
    everything = written | dict(os.environ if environment is None else environment)
    chosen = {}
    for name, default in ports.items():
        variable = f"FHIR_WRITEBACK_PORT_{name.upper()}"
        text = everything.get(variable) or str(default)
        if not text.isdecimal() or int(text) > 65535:
            raise ConfigError("bad_port", "not a port number", where=variable, fix="a number from 1 to 65535, 0 for any free")
        chosen[name] = int(text)
    return Configuration(home.resolve(), everything, chosen, frozenset(written))


def read_env_file(path: Path) -> dict[str, str]:
    """The variables that a file in the form of ``.env`` sets; none where there is no such file.

    :raises ServiceError: others than its owner may read it.
    """
    if not path.is_file():
        return {}
    refuse_exposed(path)
    return {name: value for name, value in dotenv_values(path, interpolate=False).items() if value is not None}
