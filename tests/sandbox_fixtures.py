"""Fixtures with a real FHIR server; `tests/conftest.py` brings them to every test.

``sekmet``       a server with SMART Backend Services on and an empty chart, for one test (one process a session, wiped)
``client_key``   the private JWK (JSON) of the client ``fhir-writeback`` that it knows
``open_sekmet``  the same without authorization
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fhir_writeback_dagster.sandbox.keys import make_client_key
from fhir_writeback_dagster.sandbox.servers.sekmet import Sekmet


@pytest.fixture(scope="session")
def _smart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sekmet, str]]:
    private, jwks = make_client_key()
    with Sekmet(tmp_path_factory.mktemp("sekmet"), client_jwks=jwks) as server:
        yield server, private


@pytest.fixture(scope="session")
def _open(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sekmet]:
    with Sekmet(tmp_path_factory.mktemp("open_sekmet")) as server:
        yield server


@pytest.fixture
def sekmet(_smart: tuple[Sekmet, str]) -> Sekmet:
    _smart[0].wipe()
    return _smart[0]


@pytest.fixture
def client_key(_smart: tuple[Sekmet, str]) -> str:
    return _smart[1]


@pytest.fixture
def open_sekmet(_open: Sekmet) -> Sekmet:
    _open.wipe()
    return _open
