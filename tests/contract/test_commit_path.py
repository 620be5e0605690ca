"""The whole commit path on every counterpart: create, a lost answer, a correction, a fact that is there already.

What is expected is read from the matrix: what it says of a target has to be what writing to that target shows.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from commit.world import MRN, Resource, World, heart_rate, patient
from conftest import OpenLayer
from contract.counterparts import SLOW, Counterpart, observations
from decide.stage import Stage

from fhir_writeback_dagster.rules.target.capabilities import Target
from fhir_writeback_dagster.rules.target.compatibility import after_silence
from fhir_writeback_dagster.rules.target.matrix import load_vendor, vendors
from fhir_writeback_dagster.sandbox.fault_proxy.exchange import Exchange, ProxyAnswer
from fhir_writeback_dagster.sandbox.fault_proxy.faults import DropAnswer
from fhir_writeback_dagster.sandbox.fault_proxy.script import FaultRule
from fhir_writeback_dagster.sandbox.fault_proxy.server import FaultProxy
from fhir_writeback_dagster.sandbox.vendors import personality_of

AT, LATER, EARLIER = "2024-03-01T10:00:00Z", "2024-03-01T11:00:00Z", "2024-03-01T09:00:00Z"

REAL = [("sekmet", "generic"), ("sekmet-smart", "generic"), ("medplum-5", "medplum"), ("medplum-4", "medplum")]
PLAYED = [name for name in vendors() if name not in ("generic", "medplum", "athenahealth")]


EVERY = [
    *(pytest.param(one, id=one[0]) for one in REAL),
    pytest.param(("hapi", "hapi"), id="hapi", marks=SLOW),
    *(pytest.param(("played", name), id=f"played-{name}") for name in PLAYED),
]


@pytest.fixture(params=EVERY)
def world(
    request: pytest.FixtureRequest, counterpart: Callable[[str], Counterpart], world_on: Callable[..., World], proxy: FaultProxy
) -> Iterator[World]:
    """A tenant on a counterpart, with the fault proxy before it."""
    name, vendor = request.param
    played = name == "played"
    there = counterpart("sekmet" if played else name)
    proxy.forget()
    proxy.lead_to(there.base_url)
    proxy.script(personality=personality_of(load_vendor(vendor)) if played else personality_of(load_vendor("generic")))
    yield world_on(there, vendor, proxy.base_url)
    proxy.forget()


@pytest.fixture
def target(world: World) -> Target:
    """As commit sees it: what the vendor does not say, the server behind does."""
    return Target(load_vendor(world.tenant.ehr.vendor), world.ehr.chart._send("GET", "/metadata"))


@pytest.fixture
def who(world: World) -> str:
    """A patient of this test's own, known to the counterpart."""
    made = str(uuid.uuid4())
    world.load(patient(made, made))
    return made


@pytest.mark.parametrize("vendor", [name for name in PLAYED if load_vendor(name).on_demand])
def test_where_nobody_is_listed_whose_row_it_is_is_asked_for(
    vendor: str,
    counterpart: Callable[[str], Counterpart],
    world_on: Callable[..., World],
    proxy: FaultProxy,
    open_run: OpenLayer,
) -> None:
    """From decide on: an EHR that refuses to list its patients, and a row of one of them."""
    there, number = counterpart("sekmet"), str(uuid.uuid4())
    proxy.forget()
    proxy.lead_to(there.base_url)
    proxy.script(personality=personality_of(load_vendor(vendor)))
    world = world_on(there, vendor, proxy.base_url)
    world.load(patient(number, number), patient(str(uuid.uuid4()), str(uuid.uuid4())))
    stage = Stage(world.tenant, open_run, now=datetime.now(UTC))
    record = stage.tell(patient={"identifiers": [{"system": MRN, "value": number}]})
    stage.decide()
    assert stage.end_of(record) == ("waiting", "patient_unknown")
    world.refresh()
    assert world.rows("SELECT patient_id FROM mirror.patient WHERE tenant = %s") == [(number,)]
    stage.decide()
    world.commit()
    assert ends(world) == [("committed", "created", None)]
    assert values(world, number) == [72]


def chart(world: World, who: str) -> list[Resource]:
    return sorted(world.ehr.search("Observation", patient=f"Patient/{who}"), key=lambda one: str(one["effectiveDateTime"]))


def values(world: World, who: str) -> list[float]:
    return [float(one["valueQuantity"]["value"]) for one in chart(world, who)]


def ends(world: World) -> list[tuple[str | None, ...]]:
    return [tuple(row) for row in world.intents()]


def committed(world: World) -> None:
    """Commit, until nothing waits any more for the second to be over in which it was changed (`If-Unmodified-Since`)."""
    world.commit()
    until = time.monotonic() + 20
    while any(row[2] == "modified_just_now" for row in world.intents()) and time.monotonic() < until:
        world.change("UPDATE ledger.work SET not_before = now() WHERE tenant = %s")
        world.commit()


def test_every_write_is_there_once_or_a_person_is_asked(
    world: World, target: Target, who: str, proxy: FaultProxy, counterpart: Callable[[str], Counterpart]
) -> None:
    if not observations(target):
        world.approve(heart_rate(who, AT, 72))
        world.commit()
        assert ends(world) == [("quarantined", None, "target_cannot_create")]
        assert values(world, who) == []
        assert proxy.requests["create"] + proxy.requests["bundle"] == 0
        return

    mediated = bool(target.vendor.answers.asynchronous.value)
    first = world.approve(heart_rate(who, AT, 72))
    world.commit()
    assert ends(world) == [("committed", "reconciled", "found") if mediated else ("committed", "created", None)]
    assert values(world, who) == [72]

    proxy.script([FaultRule("lost", DropAnswer(), on=("create",), count=1)], personality=proxy._personality)
    world.approve(heart_rate(who, LATER, 80))
    world.commit()
    assert proxy.faults["lost"] == 1
    assert values(world, who) == [72, 80], "a write whose answer was lost is there once"
    kept = target.vendor.create.keeps_identifier.value is not False
    assert ends(world)[1] == ("committed", "reconciled", "found" if kept else "found_by_natural_key")
    assert after_silence(target.vendor)[0] in ("repeat", "search")

    world.approve(heart_rate(who, AT, 75), key=first.business_key, revision=2)
    committed(world)
    if after_silence(target.vendor)[1] == "repeat" and target.update_form("Observation") != "none":
        assert ends(world)[2] == ("committed", "updated", None)
        assert values(world, who) == [75, 80]
        assert chart(world, who)[0]["status"] == "corrected"
    else:
        assert ends(world)[2][0] == "in_review"
        assert values(world, who) == [72, 80]

    world.ehr.chart.create(heart_rate(who, EARLIER, 66))
    world.approve(heart_rate(who, EARLIER, 66))
    world.commit()
    assert ends(world)[3] == ("committed", "suppressed", "chart_has_same")
    assert len(values(world, who)) == 3


@dataclass(frozen=True)
class Overtaken:
    """Somebody else changes the chart, in another second than it was read in, before the request gets there."""

    change: Callable[[], object]

    async def meet(self, exchange: Exchange) -> ProxyAnswer | None:
        await asyncio.sleep(1.02 - time.time() % 1)
        await asyncio.to_thread(self.change)
        return await exchange.forward(exchange.request)


def test_who_was_faster_is_not_overwritten(world: World, target: Target, who: str, proxy: FaultProxy) -> None:
    if after_silence(target.vendor)[1] != "repeat" or not observations(target) or target.update_form("Observation") == "none":
        pytest.skip("its updates are a person's")
    first = world.approve(heart_rate(who, AT, 72))
    world.commit()
    (stands,) = chart(world, who)

    def change() -> None:
        world.ehr.chart.update({**stands, "note": [{"text": "seen by a nurse"}]})

    proxy.script([FaultRule("overtaken", Overtaken(change), on=("update", "patch"), count=1)], personality=proxy._personality)
    world.approve(heart_rate(who, AT, 75), key=first.business_key, revision=2)
    committed(world)
    assert proxy.faults["overtaken"] == 1
    (now,) = chart(world, who)
    assert (float(now["valueQuantity"]["value"]), now["note"]) == (75, [{"text": "seen by a nurse"}])
    assert ends(world)[1] == ("committed", "updated", None)
    refused = world.rows("SELECT status FROM ledger.attempt WHERE tenant = %s AND outcome = 'conflict'")
    if getattr(world.ehr, "name", "") != "medplum-4":  # which heeds the patch's tests only, and no If-Match
        assert refused == [(target.vendor.update.stale_status.value,)]
