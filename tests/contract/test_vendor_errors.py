"""Every error code that a vendor's matrix names, worded as that vendor words it, ends as the matrix says that it is meant."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
from commit.world import World, heart_rate, patient
from contract.counterparts import Counterpart, observations

from fhir_writeback_dagster.commit.adapters.base import WirePlan
from fhir_writeback_dagster.commit.adapters.generic import Generic
from fhir_writeback_dagster.commit.adapters.vendor_errors import MEANINGS
from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.commit.protocol.error_classes import Recovery
from fhir_writeback_dagster.commit.protocol.identity import ResourceIdentity
from fhir_writeback_dagster.rules.target.capabilities import Target
from fhir_writeback_dagster.rules.target.matrix import ErrorCode, load_vendor, vendors
from fhir_writeback_dagster.sandbox.fault_proxy.script import FaultRule
from fhir_writeback_dagster.sandbox.fault_proxy.server import FaultProxy
from fhir_writeback_dagster.sandbox.vendors import error_of, personality_of

AT = "2024-03-01T10:00:00Z"
EVERY = [(name, error) for name in vendors() for error in load_vendor(name).errors]
WRITTEN = [(name, error) for name, error in EVERY if observations(Target(load_vendor(name)))]
ENDS = {
    Recovery.QUARANTINE: ("quarantined", None),
    Recovery.ESCALATE: ("quarantined", None),
    Recovery.REVIEW: ("in_review", None),
    Recovery.RECONCILE: ("committed", "created"),  # it is not there: so it is sent again
    Recovery.RETRY: ("committed", "created"),
    Recovery.WAIT: ("committed", "created"),
}


def name_of(one: object) -> str:
    return one.code if isinstance(one, ErrorCode) else str(one)


@pytest.fixture
def played(
    counterpart: Callable[[str], Counterpart], world_on: Callable[..., World], proxy: FaultProxy
) -> Iterator[Callable[[str, ErrorCode], World]]:
    there = counterpart("sekmet")

    def make(name: str, error: ErrorCode) -> World:
        vendor = load_vendor(name)
        proxy.forget()
        proxy.lead_to(there.base_url)
        refused = FaultRule("refused", error_of(vendor, error), on=("create",), count=1)
        proxy.script([refused], personality=personality_of(vendor))
        return world_on(there, name, proxy.base_url)

    yield make
    proxy.forget()


@pytest.mark.parametrize(("name", "error"), WRITTEN, ids=name_of)
def test_a_create_that_is_refused_so_ends_so(
    played: Callable[[str, ErrorCode], World], proxy: FaultProxy, name: str, error: ErrorCode
) -> None:
    world, who = played(name, error), str(uuid.uuid4())
    world.load(patient(who, who))
    world.approve(heart_rate(who, AT, 72))
    world.commit()
    meant = MEANINGS[error.means]
    assert proxy.faults["refused"] == 1
    assert [tuple(row)[:2] for row in world.intents()] == [ENDS[meant.recovery]]
    assert (meant.code,) in world.rows("SELECT outcome FROM ledger.attempt WHERE tenant = %s")


@pytest.mark.parametrize(("name", "error"), [one for one in EVERY if one not in WRITTEN], ids=name_of)
def test_of_a_vendor_that_takes_no_observations_the_answer_is_read_so(name: str, error: ErrorCode) -> None:
    said = error_of(load_vendor(name), error)
    whose = ResourceIdentity("urn:ours", "key", "QuestionnaireResponse", "a")
    plan = WirePlan("create", "create", "search", "POST", "QuestionnaireResponse", {}, b"", {"resourceType": "X"}, whose)
    outcome = Generic(Target(load_vendor(name)), "urn:x").interpret(plan, Answer(said.status, {}, said.body))
    assert outcome == MEANINGS[error.means]
