"""Many writes of many patients in bundles, as large as the counterpart takes them: each is there once."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from commit.world import World, heart_rate, patient
from contract.counterparts import SLOW, Counterpart

from fhir_writeback_dagster.sandbox.fault_proxy.faults import DropAnswer
from fhir_writeback_dagster.sandbox.fault_proxy.script import FaultRule
from fhir_writeback_dagster.sandbox.fault_proxy.server import FaultProxy

AT = "2024-03-01T10:00:00Z"
EACH = [
    ("sekmet-smart", "generic", "batch", 10),
    ("medplum-5", "medplum", "transaction", 8),
    pytest.param("hapi", "hapi", "transaction", 10, marks=SLOW),
]


@pytest.mark.parametrize(("name", "vendor", "kind", "size"), EACH, ids=["sekmet-smart", "medplum-5", "hapi"])
def test_a_bundle_whose_answer_is_lost_is_written_once(
    counterpart: Callable[[str], Counterpart],
    world_on: Callable[..., World],
    proxy: FaultProxy,
    name: str,
    vendor: str,
    kind: str,
    size: int,
) -> None:
    there = counterpart(name)
    proxy.forget()
    proxy.lead_to(there.base_url)
    who = [str(uuid.uuid4()) for _ in range(20)]
    world = world_on(there, vendor, proxy.base_url, bundle=kind, bundle_size=10, concurrency=1)
    world.load(*(patient(one, one) for one in who))
    world.refresh()
    world.approve_all([heart_rate(one, AT, 72) for one in who])
    proxy.script([FaultRule("lost", DropAnswer(), on=("bundle",), count=1)])
    world.commit()
    assert proxy.faults["lost"] == 1
    assert {row[:2] for row in world.intents()} <= {("committed", "created"), ("committed", "reconciled")}
    written = [one["subject"]["reference"] for one in there.search("Observation", code="8867-4")]
    assert sorted(ref for ref in written if ref.removeprefix("Patient/") in who) == sorted(f"Patient/{one}" for one in who)
    assert proxy.requests["bundle"] >= 20 / size
    proxy.forget()
