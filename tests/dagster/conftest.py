"""A Dagster instance in memory for single runs, and doubles in place of the layers' pipelines."""

from __future__ import annotations

import sqlite3
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest
from support import Database

from fhir_writeback_dagster.config.settings import DSN, HOME, LAYER


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


@pytest.fixture
def everything_kept(instance: dg.DagsterInstance) -> Callable[[], bytes]:
    """Every byte that the instance keeps; what its databases hold compressed is unpacked."""

    def read() -> bytes:
        kept = b""
        for path in Path(instance.root_directory).rglob("*"):
            if path.suffix == ".db":
                with sqlite3.connect(path) as connection:
                    for table in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                        for row in connection.execute(f'SELECT * FROM "{table[0]}"'):
                            kept += b"|".join(_unpacked(value) for value in row)
            elif path.is_file():
                kept += path.read_bytes()
        return kept

    return read


def _unpacked(value: object) -> bytes:
    if isinstance(value, bytes):
        try:
            return zlib.decompress(value)
        except zlib.error:
            return value
    return str(value).encode()
