"""The mirror says what the EHR says: new, changed, merged and deleted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from commit.faults import FaultyLine, Seen, Twist
from commit.world import MRN, World, consent, encounter, patient

from fhir_writeback_dagster.commit.mirror.refresh import refresh
from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.rules.fhir.resource_url import URI, comparable

PATIENTS = "SELECT patient_id, active, deceased, replaced_by FROM mirror.patient WHERE tenant = %s ORDER BY 1"


def _who_has(world: World, mrn: str) -> list[str]:
    digest = world.run.identity.digest("identifier", MRN, mrn)
    found = world.rows("SELECT patient_id FROM mirror.patient_identifier WHERE tenant = %s AND identifier = %s", digest)
    return [row[0] for row in found]


def test_holds_patients_encounters_and_consents(world: World) -> None:
    world.load(
        patient("a", "1"),
        patient("b", "2", active=False, deceasedDateTime="2020-01-01"),
        encounter("e", "a", period={"start": "2024-03-01T08:00:00-05:00", "end": "2024-03-02"}),
        consent("c", "a"),
    )
    report = world.refresh()
    assert report.changed == {"Patient": 2, "Encounter": 1, "Consent": 1}
    assert world.rows(PATIENTS) == [("a", True, False, None), ("b", False, True, None)]
    assert world.rows("SELECT encounter_id, patient_id, status, starts_at, ends_at FROM mirror.encounter WHERE tenant = %s") == [
        (
            "e",
            "a",
            "in-progress",
            datetime(2024, 3, 1, 13, tzinfo=UTC),
            datetime(2024, 3, 3, 5, tzinfo=UTC),  # the whole last day, in New York
        )
    ]
    assert _who_has(world, "1") == ["a"]
    ((body,),) = world.rows("SELECT body FROM mirror.consent WHERE tenant = %s AND patient_id = 'a'")
    assert world.run.sealer.open_json("mirror.consent", "ehr|c", body)["provision"] == {"type": "permit"}
    assert world.rows("SELECT body->>'fhirVersion' FROM mirror.capability WHERE tenant = %s") == [("4.0.1",)]


def test_a_second_refresh_brings_only_what_changed_and_waiting_rows_look_again_only_then(world: World) -> None:
    world.load(*(patient(f"p{n}", str(n)) for n in range(700)))  # more than a page
    assert world.refresh().changed["Patient"] == 700
    changed_at = world.rows("SELECT resource_type, changed_at FROM mirror.sync WHERE tenant = %s ORDER BY 1")
    assert world.refresh().changed == {"Patient": 0, "Encounter": 0, "Consent": 0}
    assert world.rows("SELECT resource_type, changed_at FROM mirror.sync WHERE tenant = %s ORDER BY 1") == changed_at
    world.load(patient("new", "9000"))
    report = world.refresh()
    assert report.changed["Patient"] == 1
    assert "Patient" not in report.full
    assert _who_has(world, "9000") == ["new"]


def test_a_merge_moves_the_number_to_the_survivor(world: World) -> None:
    world.load(patient("old", "1"), patient("survivor", "2"))
    world.refresh()
    world.load(
        patient("survivor", "2", "1"),
        patient("old", active=False, link=[{"other": {"reference": "Patient/survivor"}, "type": "replaced-by"}]),
    )
    world.refresh()
    assert world.rows(PATIENTS) == [("old", False, False, "survivor"), ("survivor", True, False, None)]
    assert _who_has(world, "1") == ["survivor"]


def test_a_deleted_consent_is_gone_after_the_next_refresh(world: World) -> None:
    world.load(patient("a", "1"), consent("permit", "a"), consent("deny", "a", "deny"))
    world.refresh()
    world.ehr.chart.delete("Consent", "permit")
    assert world.refresh().gone["Consent"] == 1
    assert world.rows("SELECT consent_id FROM mirror.consent WHERE tenant = %s") == [("deny",)]


def test_a_deleted_patient_leaves_no_identifier(world: World) -> None:
    world.load(patient("a", "1"), patient("b", "2"))
    world.refresh()
    world.ehr.chart.delete("Patient", "a")
    assert world.refresh().gone["Patient"] == 1
    assert (_who_has(world, "1"), _who_has(world, "2")) == ([], ["b"])


def _at(world: World, table: str, url: str) -> list[str]:
    digest = world.run.identity.digest("identifier", URI, comparable(URI, url))
    found = world.rows(f"SELECT {table}_id FROM mirror.{table}_identifier WHERE tenant = %s AND identifier = %s", digest)
    return [row[0] for row in found]


def test_a_patient_and_an_encounter_are_known_by_their_own_url(world: World) -> None:
    world.load(patient("a", "1"), patient("b", "2"), encounter("e", "a"))
    world.refresh()
    base = world.tenant.ehr.base_url
    assert _at(world, "patient", f"{base}/Patient/a/_history/1") == ["a"]
    assert _at(world, "encounter", f"{base}/Encounter/e") == ["e"]
    assert _at(world, "patient", "https://ehr.stv.example/fhir/Patient/a") == []


@pytest.mark.parametrize("before", [None, "//old.example/fhir"])
def test_a_mirror_from_before_urls_counted_or_of_an_ehr_that_moved_learns_them(world: World, before: str | None) -> None:
    world.load(patient("a", "1"))
    world.refresh()
    world.change("DELETE FROM mirror.patient_identifier WHERE tenant = %s")
    world.change(
        "UPDATE mirror.sync SET server = x.before FROM (SELECT %s, %s::text) AS x (tenant, before) WHERE sync.tenant = x.tenant",
        before,
    )
    report = world.refresh()
    assert (report.changed["Patient"], _at(world, "patient", f"{world.tenant.ehr.base_url}/Patient/a")) == (1, ["a"])
    assert world.refresh().changed["Patient"] == 0


def test_a_number_that_is_a_url_is_kept_as_it_is_compared(world: World) -> None:
    registry = {"system": URI, "value": "http://Registry.example/fhir/Patient/7"}
    world.load({**patient("a", "1"), "identifier": [registry]})
    world.refresh()
    assert _at(world, "patient", "https://registry.example/fhir/Patient/7/_history/2") == ["a"]


def test_a_listing_forgets_nothing_that_another_run_has_read_meanwhile(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "1"), consent("c", "a"))
    faulty.refresh()
    races = [True]

    def beaten(status: int, headers: Any, body: bytes) -> Any:
        """After the listing and its count somebody denies, and a commit run reads it before the listing's run has ended."""
        faulty.load(consent("revoked", "a", "deny"))
        with faulty.another() as other:
            refresh(other)
        return status, headers, body

    def rule(seen: Seen) -> Twist | None:
        counts = seen.path == "Consent/_search" and b"_summary=count" in seen.body
        return Twist(beaten) if counts and races and races.pop() else None

    line.rules.append(rule)
    faulty.refresh(full=True)
    assert not races, "they met"
    assert faulty.rows("SELECT consent_id FROM mirror.consent WHERE tenant = %s ORDER BY 1") == [("c",), ("revoked",)]


def test_full_reads_everything_again(world: World) -> None:
    world.load(patient("a", "1"))
    world.refresh()
    report = world.refresh(full=True)
    assert (report.changed["Patient"], report.full) == (1, ("Patient", "Encounter", "Consent"))


def test_no_answer_from_a_cache_is_wanted(faulty: World, line: FaultyLine) -> None:
    faulty.load(patient("a", "a"))
    faulty.refresh()
    asked = [seen for seen in line.seen if not seen.path.startswith(".well-known")]
    assert asked
    assert {seen.headers["cache-control"] for seen in asked} == {"no-cache"}


def test_an_ehr_that_is_down_is_said_and_nothing_is_lost(world: World, make_world: Callable[..., World]) -> None:
    down = make_world(ehr={"base_url": "http://127.0.0.1:9/fhir"})
    with pytest.raises(TargetError) as raised:
        down.refresh()
    assert raised.value.code == "unreachable"
    assert "127.0.0.1:9" in str(raised.value)
    assert down.rows("SELECT count(*) FROM mirror.sync WHERE tenant = %s") == [(0,)]


def test_no_value_of_a_patient_stands_readable(world: World) -> None:
    world.load(patient("a", "mrn-4711", name=[{"family": "Readable"}]))
    world.refresh()
    for table in ("patient", "patient_identifier", "sync"):
        text = str(world.rows(f"SELECT t.*::text FROM mirror.{table} t WHERE tenant = %s"))
        assert "Readable" not in text
        assert "4711" not in text
