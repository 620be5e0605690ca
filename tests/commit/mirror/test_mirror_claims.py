"""The EHR's dates are claims: a mirror that believed them would be blind to a later withdrawal."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from commit.faults import FaultyLine, Seen, Twist
from commit.world import World, consent, heart_rate, patient
from support import eventually

AT = "2024-03-01T10:00:00Z"


def dated(line: FaultyLine, resource_id: str, last_updated: str) -> None:
    """The EHR dates the resource so, also where it is asked for what is newer."""
    moment = datetime.fromisoformat(last_updated)

    def how(_status: int, headers: Any, body: bytes) -> Any:
        found = json.loads(body)
        for entry in found.get("entry", []):
            if entry["resource"]["id"] == resource_id:
                entry["resource"]["meta"]["lastUpdated"] = last_updated
        return 200, headers, json.dumps(found).encode()

    def hidden(_status: int, headers: Any, body: bytes) -> Any:
        found = json.loads(body)
        found["entry"] = [entry for entry in found.get("entry", []) if entry["resource"]["id"] != resource_id]
        found["total"] = len(found["entry"])
        return 200, headers, json.dumps(found).encode()

    def rule(seen: Seen) -> Twist | None:
        if not seen.path.endswith("_search") or b"_summary" in seen.body:
            return None
        return Twist(hidden if b"_lastUpdated" in seen.body and moment < datetime.now(UTC) else how)

    line.rules.append(rule)


def said(world: World, consent_id: str = "c") -> str:
    """What the mirrored consent says."""
    ((body,),) = world.rows("SELECT body FROM mirror.consent WHERE tenant = %s AND consent_id = %s", consent_id)
    opened = world.run.sealer.open_json("mirror.consent", f"{world.tenant.ehr.target}|{consent_id}", body)
    return str(opened["provision"]["type"])


def test_one_resource_of_the_future_hides_no_later_withdrawal(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"), patient("b", "b"), consent("c", "a"), consent("future", "b"))
    dated(line, "future", "2031-01-01T00:00:00Z")
    faulty.refresh()
    faulty.load(consent("c", "a", "deny"))
    faulty.refresh()
    assert said(faulty) == "deny"
    ((ahead,),) = faulty.rows("SELECT bool_or(watermark > now() + interval '1 minute') FROM mirror.sync WHERE tenant = %s")
    assert not ahead


def test_a_watermark_that_is_in_the_future_already_blinds_no_longer(faulty: World) -> None:
    faulty.load(patient("a", "a"), consent("c", "a"))
    faulty.refresh()
    faulty.change("UPDATE mirror.sync SET watermark = '2031-01-01' WHERE tenant = %s")
    faulty.load(consent("c", "a", "deny"))
    faulty.refresh()
    assert said(faulty) == "deny"


@pytest.mark.parametrize("off", [timedelta(hours=-2), timedelta(hours=2)], ids=["behind", "ahead"])
def test_the_watermark_is_kept_to_the_ehrs_own_clock(faulty: World, line: FaultyLine, off: timedelta) -> None:
    """The EHR's clock is ``off``; what it stamps is so too, and one resource is an hour ahead even of that."""
    faulty.load(patient("a", "a"), consent("c", "a"))
    there = datetime.now(UTC) + off

    def how(status: int, headers: Any, body: bytes) -> Any:
        found = json.loads(body)
        for entry in found.get("entry", []):
            ahead = timedelta(hours=1) if entry["resource"]["resourceType"] == "Consent" else timedelta(minutes=-1)
            entry["resource"]["meta"]["lastUpdated"] = (there + ahead).isoformat()
        headers = [(name, value) for name, value in headers if name.lower() != "date"]
        return status, [*headers, ("Date", format_datetime(there, usegmt=True))], json.dumps(found).encode()

    line.rules.append(lambda seen: Twist(how) if seen.path.endswith("_search") else None)
    faulty.refresh()
    marks: dict[str, Any] = dict(faulty.rows("SELECT resource_type, watermark FROM mirror.sync WHERE tenant = %s"))
    assert all(mark is None or mark <= there for mark in marks.values()), marks
    assert marks["Patient"] is not None


def test_a_denial_that_was_imported_under_an_old_date_counts_within_max_age(
    make_world: Callable[..., World], line: FaultyLine
) -> None:
    later = [timedelta()]
    world = make_world(clock=lambda: datetime.now(UTC) + later[0], ehr={"base_url": line.base_url})
    world.load(patient("a", "a"), consent("c", "a"))
    world.refresh()
    world.load(consent("c", "a", "deny"))
    dated(line, "c", "2001-01-01T00:00:00Z")
    later[0] = timedelta(minutes=16)
    world.approve(heart_rate("a", AT, 72), expires=timedelta(hours=2))
    world.commit()
    assert world.intents() == [("withdrawn", None, "consent_deny")]


def test_no_write_goes_out_on_consents_that_were_not_listed_completely_within_max_age(
    make_world: Callable[..., World], line: FaultyLine
) -> None:
    """The polls go on, and each finds nothing new; the promise is about what polling cannot see."""
    later = [timedelta()]
    world = make_world(clock=lambda: datetime.now(UTC) + later[0], ehr={"base_url": line.base_url})
    world.load(patient("a", "a"), consent("c", "a"))
    world.refresh()
    world.load(consent("c", "a", "deny"))
    dated(line, "c", "2001-01-01T00:00:00Z")
    for minutes in (5, 10, 15, 20):
        later[0] = timedelta(minutes=minutes)
        world.refresh()
    world.approve(heart_rate("a", AT, 72), expires=timedelta(hours=2))
    world.commit()
    assert world.intents() == [("withdrawn", None, "consent_deny")]


def test_patients_are_listed_completely_at_an_interval_of_their_own(make_world: Callable[..., World], line: FaultyLine) -> None:
    later = [timedelta()]
    world = make_world(clock=lambda: datetime.now(UTC) + later[0], ehr={"base_url": line.base_url, "mirror_complete_every": "6h"})
    world.load(patient("a", "1"))
    assert "Patient" in world.refresh().full
    watermark = "SELECT watermark IS NOT NULL FROM mirror.sync WHERE tenant = %s AND resource_type = 'Patient'"
    # A busy server's Date lags behind its own stamps: until it has caught up nothing is believed, and everything is listed.
    eventually(lambda: world.rows(watermark) == [(True,)] or not world.refresh().full, "a stamp that is believed")
    world.load(patient("a", "1", active=False))
    dated(line, "a", "2001-01-01T00:00:00Z")
    later[0] = timedelta(hours=5)
    assert "Patient" not in world.refresh().full
    later[0] = timedelta(hours=7)
    assert "Patient" in world.refresh().full
    assert world.rows("SELECT active FROM mirror.patient WHERE tenant = %s") == [(False,)]
