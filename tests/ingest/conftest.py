"""A tenant with one source of the test's own; suites only where a test asks for them (their import takes seconds)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeTenant
from hypothesis import settings
from ingest.hospital import VITALS, Hospital, own_mappings, write_source
from support import PROJECT, Database

# A shared machine makes any deadline flaky; how fast ingest is, benchmarks/ says.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


@pytest.fixture
def make_hospital(database: Database, home: Path, make_tenant: MakeTenant) -> Callable[..., Hospital]:
    def make(contract: str = VITALS, *, suites: bool = False, **use: Any) -> Hospital:
        write_source(own_mappings(home), contract)
        if not suites:
            (home / "expectations").unlink()
            (home / "expectations").mkdir()
        source = {"version": 1, "landing": "landing/zone", "patient_systems": {"mrn": "urn:mrn"}, **use}
        return Hospital(database, home, make_tenant(None, sources={"vitals": source}))

    return make


@pytest.fixture
def hospital(make_hospital: Callable[..., Hospital]) -> Hospital:
    return make_hospital()


@pytest.fixture(scope="session")
def shipped() -> Path:
    """The project's own mappings."""
    return PROJECT / "mappings"
