"""Before the send marker everything is asked again; what no longer stands goes back to decide and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from commit.faults import FaultyLine
from commit.world import World, consent, encounter, heart_rate, patient

from fhir_writeback_dagster.commit.ledger.intents import accept
from fhir_writeback_dagster.errors import ConfigError

AT = "2024-03-01T10:00:00Z"
MERGED = {"active": False, "link": [{"other": {"reference": "Patient/b"}, "type": "replaced-by"}]}


def _withdrawn(world: World, reason: str) -> None:
    """Nothing was sent, and decide is asked again."""
    report = world.commit()
    assert world.intents() == [("withdrawn", None, reason)], report
    assert world.ehr.search("Observation") == []
    assert world.rows("SELECT count(*) FROM ledger.work WHERE tenant = %s") == [(0,)]
    assert world.owner_rows("SELECT count(*) FROM ledger.outbox WHERE tenant = %s") == [(1,)]


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ([patient("a", "a", deceasedBoolean=True)], "patient_deceased"),
        ([patient("a", "a", active=False)], "patient_inactive"),
        ([patient("a", "other")], "identifier_moved"),
        ([patient("b", "b", "a")], "identifier_moved"),
        ([patient("a", "a", **MERGED)], "patient_replaced"),
        ([encounter("e", "b")], "encounter_moved"),
        ([encounter("e", "a", "entered-in-error")], "encounter_in_error"),
        ([consent("c", "a", "deny")], "consent_deny"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_changed_in_the_ehr_since_the_verdict(world: World, then: list[Any], reason: str) -> None:
    world.load(patient("a", "a"), patient("b", "b"), encounter("e", "a"), consent("c", "a"))
    world.refresh()
    world.approve(heart_rate("a", AT, 72), encounter_id="e")
    world.load(*then)
    world.refresh()
    _withdrawn(world, reason)


def _closing(world: World, kind: str = "document") -> World:
    """An encounter that was open when decide looked is finished now."""
    world.load(patient("a", "a"), encounter("e", "a"))
    world.refresh()
    world.approve(heart_rate("a", AT, 72), encounter_id="e", kind=kind)
    world.load(encounter("e", "a", "finished"))
    world.refresh()
    return world


@pytest.mark.parametrize("kind", ["document", "medication_request"])
def test_an_encounter_that_was_closed_takes_no_more_orders_and_notes(world: World, kind: str) -> None:
    _withdrawn(_closing(world, kind), "encounter_closed")


def test_what_was_measured_in_it_may_still_be_written(world: World) -> None:
    assert _closing(world, "vital_sign").commit().counts["created"] == 1


def test_a_tenant_may_permit_notes_for_a_closed_encounter(make_world: Callable[..., World]) -> None:
    assert _closing(make_world(closed_encounter="permit")).commit().counts["created"] == 1


def test_what_a_person_approved_for_a_closed_encounter_goes(world: World) -> None:
    _closing(world)
    world.change(
        "INSERT INTO review.task (tenant, task_id, candidate_id, opened_by, reason, content_hash, evidence, state) "
        "SELECT tenant, gen_random_uuid(), candidate_id, 'decide', 'encounter_closed', content_hash, '{}', 'approved' "
        "FROM decision.candidate WHERE tenant = %s"
    )
    assert world.commit().counts["created"] == 1


def test_nothing_changed_and_it_is_sent(world: World) -> None:
    world.load(patient("a", "a"), patient("b", "b"), encounter("e", "a"), consent("c", "a"))
    world.approve(heart_rate("a", AT, 72), encounter_id="e")
    assert world.commit().counts["created"] == 1


def test_an_identifier_that_leads_to_the_patient_over_a_merge_still_stands(world: World) -> None:
    world.load(patient("b", "b"), patient("a", "a", **MERGED), encounter("e", "a"))
    world.approve(heart_rate("b", AT, 72), mrn="a", encounter_id="e")
    assert world.commit().counts["created"] == 1


def test_a_patient_who_is_gone(world: World) -> None:
    world.load(patient("a", "a"))
    world.refresh()
    world.approve(heart_rate("a", AT, 72))
    world.ehr.chart.delete("Patient", "a")
    world.refresh()
    _withdrawn(world, "patient_gone")


def test_a_verdict_that_expired(world: World) -> None:
    world.load(patient("a", "a"))
    world.approve(heart_rate("a", AT, 72), expires=timedelta(seconds=-1))
    _withdrawn(world, "verdict_expired")


def test_a_candidate_that_decide_has_decided_anew(world: World) -> None:
    world.load(patient("a", "a"))
    world.refresh()
    wanted = world.approve(heart_rate("a", AT, 72))
    with world.run.store.tenant(world.run.id) as connection:
        accept(connection, world.run, 10)
    with world.decide.store.tenant(world.run.id) as connection:
        connection.execute(
            "UPDATE decision.candidate SET state = 'stale' WHERE tenant = %s AND candidate_id = %s",
            (world.run.id, wanted.candidate_id),
        )
    _withdrawn(world, "verdict_changed")


@pytest.mark.parametrize("none_found", ["review", "deny"])
def test_no_consent_where_the_tenant_wants_one(make_world: Callable[..., World], none_found: str) -> None:
    world = make_world(consent={"none_found": none_found})
    world.load(patient("a", "a"))
    world.approve(heart_rate("a", AT, 72))
    _withdrawn(world, "consent_none")


@pytest.mark.parametrize("mode", ["off", "shadow", "review_all", "sampled"])
def test_a_mode_that_was_lowered_counts_at_once(world: World, home: Path, mode: str) -> None:
    world.load(patient("a", "a"))
    world.approve(heart_rate("a", AT, 72))
    file = home / "tenants" / f"{world.run.id}.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"modes": {"default": mode, "sample": 1}}))
    _withdrawn(world, f"mode_{mode}")


def test_a_tenant_whose_file_is_broken_sends_nothing(world: World, home: Path) -> None:
    world.load(patient("a", "a"))
    world.approve(heart_rate("a", AT, 72))
    (home / "tenants" / f"{world.run.id}.yaml").write_text("tenant: [")
    with pytest.raises(ConfigError):
        world.commit()
    assert world.ehr.search("Observation") == []


def test_a_policy_that_does_not_permit_it_any_more(world: World, home: Path) -> None:
    world.load(patient("a", "a"))
    world.approve(heart_rate("a", AT, 72))
    policies = home / "policies"
    shipped = policies.resolve()
    policies.unlink()
    policies.mkdir()
    (policies / "schema.cedarschema").write_bytes((shipped / "schema.cedarschema").read_bytes())
    forbid = '@id("no-vitals") forbid (principal, action, resource == Writeback::Kind::"vital_sign");\n'
    (policies / "baseline.cedar").write_text(forbid + (shipped / "baseline.cedar").read_text())
    _withdrawn(world, "policy_denied")


@pytest.mark.parametrize("age", ["2 seconds", "-3 hours"], ids=["too old", "from before the clock was set back"])
def test_an_old_mirror_is_read_again_first_and_a_consent_revoked_meanwhile_stops_the_write(
    make_world: Callable[..., World],
    age: str,
) -> None:
    world = make_world(consent={"none_found": "permit", "max_age": "1s"})
    world.load(patient("a", "a"), consent("c", "a"))
    world.refresh()
    world.approve(heart_rate("a", AT, 72))
    world.load(consent("c", "a", "deny"))
    world.change(f"UPDATE mirror.sync SET refreshed_at = refreshed_at - interval '{age}' WHERE tenant = %s")
    _withdrawn(world, "consent_deny")


def test_a_mirror_that_grows_old_during_the_run_is_read_again_before_anything_goes(
    make_world: Callable[..., World], line: FaultyLine
) -> None:
    world = make_world(consent={"none_found": "permit", "max_age": "1h"}, ehr={"base_url": line.base_url})
    world.load(patient("a", "a"), consent("c", "a"))
    world.refresh()
    world.approve(heart_rate("a", AT, 72))
    reads = len(line.sent("GET", "metadata"))

    def grow_old(seen: Any) -> None:
        if seen.path == "Observation/_search" and len(line.sent("GET", "metadata")) == reads:
            world.load(consent("c", "a", "deny"))
            world.change("UPDATE mirror.sync SET refreshed_at = refreshed_at - interval '1 day' WHERE tenant = %s")

    line.rules.append(grow_old)
    _withdrawn(world, "consent_deny")
    assert len(line.sent("GET", "metadata")) == reads + 1


def test_a_withdrawn_intent_opens_again_under_a_new_verdict_and_counts_its_fence_on(world: World) -> None:
    world.load(patient("a", "a", active=False))
    first = world.approve(heart_rate("a", AT, 72))
    _withdrawn(world, "patient_inactive")
    ((fence,),) = world.rows("SELECT fence FROM ledger.intent WHERE tenant = %s")
    world.load(patient("a", "a"))
    world.refresh()
    again = world.approve(heart_rate("a", AT, 72), key=first.business_key)
    assert world.commit().counts["created"] == 1
    assert world.rows("SELECT fence, candidate_id FROM ledger.intent WHERE tenant = %s") == [(fence + 1, again.candidate_id)]
