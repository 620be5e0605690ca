"""Many writes of many patients in bundles, as large as the counterpart takes them: each is there once."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from commit.world import World, heart_rate, patient
from contract.counterparts import SLOW, Counterpart

from fhir_writeback_dagster.rules.target.matrix import load_vendor
from fhir_writeback_dagster.sandbox.fault_proxy.exchange import Exchange, ProxyAnswer
from fhir_writeback_dagster.sandbox.fault_proxy.faults import DropAnswer
from fhir_writeback_dagster.sandbox.fault_proxy.misleading import NoBody
from fhir_writeback_dagster.sandbox.fault_proxy.personality import Personality
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


@dataclass(frozen=True)
class SwappedAndBare:
    """The entries of a batch's answer come in another order, and show nothing but what was made."""

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        answer = await NoBody("relative").meet(exchange)
        bundle = answer.resource() if answer else None
        if answer is None or bundle is None:
            return answer
        return answer.saying({**bundle, "entry": bundle["entry"][::-1]})


@pytest.mark.parametrize("vendor", ["oracle_health", "us_core"])
def test_bare_answers_in_another_order_are_told_apart_by_what_stands_there(
    counterpart: Callable[[str], Counterpart], world_on: Callable[..., World], proxy: FaultProxy, vendor: str
) -> None:
    """Oracle Health takes batches, answers a create without a body, and may drop our key: then the content alone tells."""
    there = counterpart("sekmet-smart")
    proxy.forget()
    proxy.lead_to(there.base_url)
    kinds = load_vendor(vendor).bundles.kinds.get(())
    who = [str(uuid.uuid4()) for _ in range(6)]
    world = world_on(there, vendor, proxy.base_url, bundle="batch", bundle_size=10, concurrency=1)
    world.load(*(patient(one, one) for one in who))
    world.refresh()
    wanted = world.approve_all([heart_rate(one, AT, 60 + n) for n, one in enumerate(who)])
    drops = vendor == "oracle_health"
    rule = FaultRule("swapped", SwappedAndBare(), on=("bundle", "create"))
    proxy.script([rule], personality=Personality(strips_identifiers=drops))
    world.commit()
    assert proxy.faults["swapped"] == (1 if "batch" in kinds else 6)
    assert {row[:2] for row in world.intents()} == {("committed", "created")}
    linked: dict[str, str] = dict(world.rows("SELECT business_key, resource_id FROM ledger.link WHERE tenant = %s"))
    standing = {one: there.search("Observation", patient=f"Patient/{one}") for one in who}
    assert linked == {c.business_key: standing[one][0]["id"] for c, one in zip(wanted, who, strict=True)}
    assert all(len(found) == 1 for found in standing.values())
    proxy.forget()
