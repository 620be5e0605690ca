"""Where this project's files are and which layer this process is; read from the environment when asked, never at import."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from fhir_writeback_dagster.errors import ConfigError

Layer = Literal["ingest", "decide", "commit", "audit", "status"]
LAYERS: tuple[Layer, ...] = get_args(Layer)

HOME = "FHIR_WRITEBACK_HOME"
LAYER = "FHIR_WRITEBACK_LAYER"
DSN = "FHIR_WRITEBACK_DSN"


@dataclass(frozen=True, slots=True)
class Settings:
    """``home`` holds tenants/, mappings/, expectations/, policies/; ``dsn`` is the layer's own and only database login."""

    home: Path
    layer: Layer
    dsn: str = field(repr=False)

    @property
    def tenants(self) -> Path:
        return self.home / "tenants"

    @property
    def mappings(self) -> Path:
        return self.home / "mappings"

    @property
    def expectations(self) -> Path:
        return self.home / "expectations"

    @property
    def policies(self) -> Path:
        return self.home / "policies"


def home() -> Path:
    """The folder of tenants, mappings, expectations and policies: ``FHIR_WRITEBACK_HOME``, else the current one."""
    return Path(os.environ.get(HOME, ".")).resolve()


def from_environment() -> Settings:
    """This process's settings.

    :raises ConfigError: the layer or its DSN is not in the environment.
    """
    layer = os.environ.get(LAYER, "")
    if layer not in LAYERS:
        raise ConfigError("no_layer", f"{LAYER} is {layer or 'not set'}", fix=f"set it to one of {', '.join(LAYERS)}")
    dsn = os.environ.get(DSN)
    if not dsn:
        raise ConfigError("no_dsn", f"{DSN} is not set for the {layer} layer", fix="start with `fhir-writeback up`, or set it")
    return Settings(home(), layer, dsn)
