"""EHRs to write to, real or as the fault proxy plays them, each with what it is by the matrix."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.rules.target.capabilities import Target
from fhir_writeback_dagster.sandbox.servers.ehr_client import EhrClient

MISSING = ("runtime_missing", "hapi_missing")
"""Codes of what this machine has not got: Node, npm, Java, Maven, or a way to their packages."""


SLOW = pytest.mark.timeout(900)
"""HAPI is fetched the first time (three minutes) and takes most of a minute to come up, on a busy machine several."""


@dataclass
class Counterpart:
    """``base_url`` is what the engine is given; ``chart`` looks at the server behind. ``auth`` is the tenant's."""

    name: str
    base_url: str
    chart: EhrClient
    auth: dict[str, Any] = field(default_factory=lambda: {"type": "none"})
    key: str = ""

    def load(self, resources: Sequence[Resource]) -> None:
        self.chart.load(resources)

    def search(self, resource_type: str, **params: str) -> list[Resource]:
        return self.chart.search(resource_type, **params)


def or_skip(start: Callable[[], Any]) -> Any:
    """What ``start`` starts; where its runtime is missing the test is skipped with the reason, or fails on CI."""
    try:
        return start()
    except ServiceError as missing:
        if missing.code not in MISSING:
            raise
        if os.environ.get("CI"):
            pytest.fail(f"on CI every counterpart has to be there: {missing}")
        pytest.skip(str(missing))


def observations(target: Target) -> bool:
    """Can it be written to with FHIR Observations at all?"""
    return target.refusal("Observation", "create") is None and not target.own_api("Observation")
