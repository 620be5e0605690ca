"""An approved candidate becomes one resource in the EHR, and the ledger knows it."""

from __future__ import annotations

from commit.world import World, heart_rate, patient


def test_an_approved_candidate_is_created_once_and_linked(world: World) -> None:
    world.load(patient("a", "a"))
    wanted = world.approve(heart_rate("a", "2024-03-01T10:00:00Z", 72))
    report = world.commit()
    assert report.counts["created"] == 1, (report, world.intents())
    (found,) = world.in_ehr(wanted.business_key)
    assert found["valueQuantity"]["value"] == 72
    assert world.intents() == [("committed", "created", None)]
    assert world.rows("SELECT resource_id, origin, revision, state FROM ledger.link WHERE tenant = %s") == [
        (found["id"], "ours", 1, "active")
    ]
    assert world.rows("SELECT count(*) FROM ledger.work WHERE tenant = %s") == [(0,)]
    assert world.commit().counts == {}
