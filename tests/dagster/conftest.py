"""A Dagster instance in memory for single runs, and doubles in place of the layers' pipelines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest
from support import Database

from fhir_writeback_dagster.settings import DSN, HOME, LAYER


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


@pytest.fixture
def layer_environment(monkeypatch: pytest.MonkeyPatch, database: Database, home: Path) -> Callable[[str], None]:
    """Makes this process one of a layer."""

    def become(layer: str) -> None:
        monkeypatch.setenv(HOME, str(home))
        monkeypatch.setenv(LAYER, layer)
        monkeypatch.setenv(DSN, database.dsn(layer))

    return become


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``double("decide.pipeline", decide=function)``: what a layer's run will find instead of the module."""

    def put(module: str, **functions: Any) -> None:
        name = f"fhir_writeback_dagster.{module}"
        fake = ModuleType(name)
        for key, function in functions.items():
            setattr(fake, key, function)
        monkeypatch.setitem(sys.modules, name, fake)

    return put
