"""The environment of each child process, built from nothing: a short list of harmless variables and what is its own.

Who gets which secret:

===============  ======  ======  ======  =====  =========================
secret           ingest  decide  commit  audit  Dagster's daemon and page
===============  ======  ======  ======  =====  =========================
own DSN          yes     yes     yes     yes    no (Dagster's only)
keys.sealing     yes     yes     yes     no     no
keys.identity    yes     yes     yes     no     no
ehr.*            no      no      yes     no     no
===============  ======  ======  ======  =====  =========================

A secret is found, in this order, as ``FHIR_WRITEBACK_<LAYER>__<NAME>`` in the user's environment or `.env`, in the layer's
own file ``.fhir-writeback/env/<layer>.env``, or as plain ``NAME`` if a tenant's file names it by ``env:NAME``. The way to a
secrets manager (``VAULT_TOKEN``, …) goes to the layers that hold one of the secrets that it keeps.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from fhir_writeback_dagster.config.secret_managers import REACHED_BY
from fhir_writeback_dagster.config.settings import DSN, HOME, LAYER, Layer
from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.errors import SecretError
from fhir_writeback_dagster.ops.configuration import LOCATIONS, Configuration, read_env_file
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.provision import Dsns
from fhir_writeback_dagster.ops.sockets import socket_of

# Nothing here is a secret; a proxy or a cloud profile is not on it, because it changes where a layer can reach.
_HARMLESS = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "HOME", "USER", "LOGNAME", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
_FIXED = {"PYTHONUNBUFFERED": "1", "GX_ANALYTICS_ENABLED": "false", "DAGSTER_DISABLE_TELEMETRY": "1"}

_QUOTED = str.maketrans({"\\": "\\\\", "'": "\\'"})

_KEY_HOLDERS: frozenset[Layer] = frozenset({"ingest", "decide", "commit"})
_EHR_HOLDERS: frozenset[Layer] = frozenset({"commit"})


@dataclass(frozen=True, slots=True)
class Need:
    """A variable that ``tenant`` names as secret, or that its secrets manager is reached by, and the layers that may hold it."""

    tenant: str
    variable: str
    layers: frozenset[Layer]
    required: bool = True


def needs(tenant: Tenant) -> list[Need]:
    """What the tenant's references ask for. A name used for a key and for the EHR too goes to all of both."""
    keys = (tenant.keys.sealing, *tenant.keys.identity)
    return [
        Need(tenant.tenant, variable, holders, required)
        for references, holders in ((keys, _KEY_HOLDERS), (tenant.ehr.auth.references, _EHR_HOLDERS))
        for reference in references
        for variable, required in _variables(reference)
    ]


def _variables(reference: str) -> Iterator[tuple[str, bool]]:
    """The variables that resolving a reference reads, and whether it cannot do without."""
    if reference.startswith("env:"):
        yield reference.removeprefix("env:"), True
    for scheme, variables in REACHED_BY.items():
        if reference.startswith(scheme):
            yield from variables.items()


def storage_environment(state: StateFolder, dsns: Dsns) -> dict[str, str]:
    """What every process has: the harmless variables, and the way to Dagster's storage."""
    harmless = {name: os.environ[name] for name in _HARMLESS if name in os.environ}
    return harmless | _FIXED | {"DAGSTER_HOME": str(state.path / "dagster"), "FHIR_WRITEBACK_DSN_DAGSTER": dsns.of("dagster")}


def dagster_environment(state: StateFolder, dsns: Dsns) -> dict[str, str]:
    """For the webserver, the daemon and Dagster's command line: no layer's login, no secret of a tenant."""
    places = {f"FHIR_WRITEBACK_SOCKET_{layer.upper()}": str(socket_of(state.home, layer)) for layer in LOCATIONS}
    return storage_environment(state, dsns) | places


def layer_environment(
    config: Configuration, state: StateFolder, dsns: Dsns, layer: Layer, tenants: Iterable[Tenant]
) -> tuple[dict[str, str], list[SecretError]]:
    """The whole environment of a layer's processes, and the secrets that its tenants name and nobody gave."""
    own, missing = layer_secrets(config, state, layer, tenants)
    environment = storage_environment(state, dsns) | own
    environment |= {HOME: str(config.home), LAYER: layer, DSN: dsns.of(layer)}
    return environment, missing


def layer_secrets(
    config: Configuration, state: StateFolder, layer: Layer, tenants: Iterable[Tenant]
) -> tuple[dict[str, str], list[SecretError]]:
    """The variables that are a layer's own, those that ``tenants`` name as secrets among them, and what nobody gave."""
    own = _own_variables(config, state, layer)
    missing = []
    for need in (need for tenant in tenants for need in needs(tenant) if layer in need.layers):
        value = own.get(need.variable) or config.environment.get(need.variable)
        if value:
            own[need.variable] = value
        elif need.required:
            missing.append(
                SecretError(
                    "secret_missing",
                    f"{need.variable} is not set",
                    where=f"tenants/{need.tenant}.yaml",
                    fix=f"set it in the environment, in .env or in {state.path / 'env' / (layer + '.env')}",
                )
            )
    return own, missing


@contextmanager
def holding_secrets(config: Configuration, state: StateFolder, layer: Layer, tenants: Iterable[Tenant]) -> Iterator[None]:
    """This process holds what a layer's would while the block runs: for a command that works as the layer, on `.env` and all."""
    own, _ = layer_secrets(config, state, layer, tenants)
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def write_layer_file(state: StateFolder, layer: Layer, values: Mapping[str, str]) -> None:
    """Keep ``values`` for the processes of ``layer`` only, in ``.fhir-writeback/env/<layer>.env`` (0600)."""
    state.folder("env")
    lines = (f"{name}='{value.translate(_QUOTED)}'\n" for name, value in values.items())
    state.write(f"env/{layer}.env", "".join(lines))


def _own_variables(config: Configuration, state: StateFolder, layer: Layer) -> dict[str, str]:
    own = read_env_file(state.path / "env" / f"{layer}.env")
    prefix = f"FHIR_WRITEBACK_{layer.upper()}__"
    own |= {name.removeprefix(prefix): value for name, value in config.environment.items() if name.startswith(prefix)}
    return own
