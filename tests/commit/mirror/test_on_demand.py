"""A mirror that is filled on demand, before an EHR that refuses to list its patients: decide asks, commit answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from commit.faults import FaultyLine, Say, refusal
from commit.world import MRN, World, consent, encounter, patient
from conftest import OpenLayer
from decide.stage import Stage
from structlog.testing import capture_logs

from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.rules.fhir.resource_url import URI
from fhir_writeback_dagster.sandbox.fault_proxy.personality import Personality
from fhir_writeback_dagster.sandbox.fault_proxy.server import FaultProxy
from fhir_writeback_dagster.sandbox.servers.sekmet import Sekmet

LOOKUPS = "SELECT outcome, found FROM mirror.lookup WHERE tenant = %s ORDER BY asked_at, key"
HELD = "SELECT patient_id FROM mirror.patient WHERE tenant = %s ORDER BY 1"
MERGED = {"active": False, "link": [{"other": {"reference": "Patient/b"}, "type": "replaced-by"}]}


class Ward:
    """A world whose EHR names nobody unasked, and decide's side of it."""

    def __init__(self, world: World, stage: Stage) -> None:
        self.world, self.stage = world, stage
        self.rows = world.rows

    def tell(self, *mrns: str, **more: Any) -> UUID:
        """A heart rate of the patient with these numbers; a fact of its own each time, unless ``effective`` says which."""
        more.setdefault("row", f"row-{len(self.stage.rows('SELECT 1 FROM canonical.record'))}")
        who = {"identifiers": [{"system": MRN, "value": mrn} for mrn in mrns], **more.pop("who", {})}
        return self.stage.tell(patient=who, **more)

    def decide(self) -> None:
        self.stage.now = max(self.stage.now, datetime.now(UTC))
        self.stage.decide()

    def end(self, record: UUID) -> tuple[str, str | None]:
        return self.stage.end_of(record)

    def looked_up(self, *mrns: str) -> UUID:
        """A record whose patient was asked for, found and decided on."""
        record = self.tell(*mrns)
        self.decide()
        self.world.refresh()
        self.decide()
        return record

    def held(self) -> list[str]:
        return [patient_id for (patient_id,) in self.rows(HELD)]

    def grow_old(self) -> None:
        """The last complete refresh was an hour ago."""
        self.world.change("UPDATE mirror.sync SET refreshed_at = refreshed_at - interval '1 hour' WHERE tenant = %s")

    def nobody_asks(self) -> None:
        """A week passes without a row of anybody."""
        self.world.change("UPDATE mirror.lookup SET needed_until = now() WHERE tenant = %s")
        self.grow_old()


@pytest.fixture
def proxy(sekmet: Sekmet) -> Iterator[FaultProxy]:
    with FaultProxy(sekmet.base_url) as standing:
        standing.script(personality=Personality(refuses_unfiltered=400))
        yield standing


@pytest.fixture
def make_ward(make_world: Callable[..., World], open_run: OpenLayer, proxy: FaultProxy) -> Callable[..., Ward]:
    def make(base_url: str = "", **overrides: Any) -> Ward:
        ehr = {"vendor": "epic", "base_url": base_url or proxy.base_url, **overrides.pop("ehr", {})}
        world = make_world(ehr=ehr, **overrides)
        return Ward(world, Stage(world.tenant, open_run, now=datetime.now(UTC)))

    return make


@pytest.fixture
def ward(make_ward: Callable[..., Ward]) -> Ward:
    return make_ward()


@pytest.mark.parametrize("refusal", [400, 403])
def test_a_row_waits_is_looked_up_and_written_once(ward: Ward, proxy: FaultProxy, refusal: int) -> None:
    proxy.script(personality=Personality(refuses_unfiltered=refusal))
    ward.world.load(patient("a", "1"), patient("other", "2"), encounter("e", "a"), consent("c", "a"), encounter("o", "other"))
    record = ward.tell("1")
    ward.decide()
    assert ward.end(record) == ("waiting", "patient_unknown")
    assert ward.rows(LOOKUPS) == [(None, [])]
    report = ward.world.refresh()
    assert (report.lookups, report.refused) == ({"found": 1}, 0)
    assert ward.rows(LOOKUPS) == [("found", ["a"])]
    assert ward.held() == ["a"], "nobody else"
    assert ward.rows("SELECT encounter_id FROM mirror.encounter WHERE tenant = %s") == [("e",)]
    assert ward.rows("SELECT consent_id FROM mirror.consent WHERE tenant = %s") == [("c",)]
    ward.decide()
    assert ward.end(record) == ("approved", None)
    ward.grow_old()
    assert ward.world.commit().counts["created"] == 1
    assert ward.world.commit().written == 0
    assert len(ward.world.ehr.search("Observation")) == 1


def test_one_question_is_asked_once(ward: Ward) -> None:
    for _ in range(3):
        ward.tell("1")
        ward.decide()
    assert ward.rows(LOOKUPS) == [(None, [])]
    ward.world.refresh()
    answered = ward.rows("SELECT answered_at, due_at > now() FROM mirror.lookup WHERE tenant = %s")
    ward.decide()
    assert ward.rows("SELECT answered_at, due_at > now() FROM mirror.lookup WHERE tenant = %s") == answered
    assert answered[0][1], "it is asked again, later"


def test_who_says_nothing_about_the_patient_asks_nothing(make_ward: Callable[..., Ward]) -> None:
    ward = make_ward(matching={"probabilistic": "auto"})
    nobody = ward.tell()
    no_day = ward.tell(who={"family": "Test", "birth_date": "1970"})
    ward.decide()
    assert [ward.end(one) for one in (nobody, no_day)] == [("in_review", "no_identifiers")] * 2
    assert ward.rows(LOOKUPS) == []


def test_a_consent_that_is_revoked_later_is_seen_before_the_send(ward: Ward) -> None:
    ward.world.load(patient("a", "1"), consent("c", "a"))
    record = ward.looked_up("1")
    assert ward.end(record) == ("approved", None)
    ward.world.load(consent("c", "a", "deny"))
    ward.grow_old()
    assert ward.world.commit().written == 0
    assert ward.world.intents() == [("withdrawn", None, "consent_deny")]
    ward.decide()
    assert ward.end(record) == ("denied", "consent_deny")


def test_what_is_deleted_in_the_ehr_is_gone_after_a_refresh(ward: Ward) -> None:
    ward.world.load(patient("a", "1"), patient("b", "2"), encounter("e", "a"), encounter("f", "a"), encounter("g", "b"))
    ward.world.load(consent("c", "a"), consent("d", "a", "deny"), consent("x", "b"))
    ward.looked_up("1")
    ward.looked_up("2")
    ward.world.ehr.chart.delete("Consent", "c")
    ward.world.ehr.chart.delete("Encounter", "e")
    report = ward.world.refresh()
    assert report.gone == {"Patient": 0, "Encounter": 1, "Consent": 1}
    assert ward.rows("SELECT encounter_id FROM mirror.encounter WHERE tenant = %s ORDER BY 1") == [("f",), ("g",)]
    assert ward.rows("SELECT DISTINCT encounter_id FROM mirror.encounter_identifier WHERE tenant = %s ORDER BY 1") == [
        ("f",),
        ("g",),
    ]
    assert ward.rows("SELECT consent_id FROM mirror.consent WHERE tenant = %s ORDER BY 1") == [("d",), ("x",)]
    for kind, one in (("Consent", "d"), ("Encounter", "f"), ("Patient", "a")):
        ward.world.ehr.chart.delete(kind, one)
    assert ward.world.refresh().gone["Patient"] == 1
    assert ward.held() == ["b"]
    for table in ("encounter", "consent", "patient_identifier"):
        assert {row[0] for row in ward.rows(f"SELECT patient_id FROM mirror.{table} WHERE tenant = %s")} == {"b"}
    assert ("none", []) in ward.rows(LOOKUPS)


def test_too_many_are_none(ward: Ward) -> None:
    ward.world.load(*(patient(f"p{n}", "1") for n in range(21)))
    record = ward.looked_up("1")
    assert ward.rows(LOOKUPS) == [("too_many", [])]
    assert ward.held() == []
    assert ward.end(record) == ("in_review", "several_patients")


def test_a_number_proves_nothing_before_it_was_looked_up_itself(ward: Ward) -> None:
    ward.world.load(patient("a", "1", "2"), patient("b", "2"))
    assert ward.end(ward.looked_up("1")) == ("approved", None)
    second = ward.tell("2")
    ward.decide()
    assert ward.end(second) == ("waiting", "lookup_open"), "the mirror knows one bearer, the EHR two"
    ward.world.refresh()
    ward.decide()
    assert ward.end(second) == ("in_review", "several_patients")


def test_a_second_bearer_who_is_registered_later_stops_the_write(ward: Ward) -> None:
    ward.world.load(patient("a", "1"))
    assert ward.end(ward.looked_up("1")) == ("approved", None)
    ward.world.load(patient("b", "1"))
    ward.grow_old()
    assert ward.world.commit().written == 0
    assert ward.world.intents() == [("withdrawn", None, "identifier_moved")]


def test_a_patient_who_is_not_there_is_waited_for_and_then_given_up(ward: Ward) -> None:
    record = ward.looked_up("1")
    assert ward.rows(LOOKUPS) == [("none", [])]
    assert ward.end(record) == ("waiting", "patient_unknown")
    ward.world.load(patient("a", "1"))
    ward.world.change("UPDATE mirror.lookup SET due_at = now() WHERE tenant = %s")
    ward.world.refresh()
    ward.decide()
    assert ward.end(record) == ("approved", None), "registered since"
    lost = ward.looked_up("nobody's")
    ward.stage.now += timedelta(days=31)
    ward.decide()
    assert ward.end(lost) == ("quarantined", "no_match_in_time")


def test_no_value_of_a_patient_stands_readable(make_ward: Callable[..., Ward]) -> None:
    ward = make_ward(matching={"probabilistic": "review"})
    ward.world.load(patient("a", "mrn-4711", name=[{"family": "Readable", "given": ["Rita"]}], birthDate="1980-02-03"))
    ward.looked_up("mrn-4711")
    ward.tell(who={"family": "Readable", "birth_date": "1980-02-03"})
    ward.decide()
    assert len(ward.rows(LOOKUPS)) == 2
    text = str(ward.rows("SELECT t.*::text FROM mirror.lookup t WHERE tenant = %s")) + json.dumps(
        [str(row) for row in ward.world.owner_rows("SELECT e.*::text FROM audit.event e WHERE tenant = %s")]
    )
    for value in ("Readable", "4711", "1980", b"4711".hex(), b"Readable".hex()):
        assert value not in text


def test_tenants_see_nothing_of_each_other(make_ward: Callable[..., Ward]) -> None:
    here, there = make_ward(), make_ward()
    here.world.load(patient("a", "1"), patient("b", "2"))
    here.looked_up("1")
    assert there.world.refresh().lookups == {}
    assert (here.held(), there.held()) == (["a"], [])
    there.looked_up("2")
    assert (here.held(), there.held()) == (["a"], ["b"])
    with there.world.run.store.tenant(there.world.run.id) as connection:
        assert connection.execute("SELECT count(*) FROM mirror.lookup").fetchone() == (1,)
        assert connection.execute("DELETE FROM mirror.lookup WHERE tenant = %s", (here.world.run.id,)).rowcount == 0


def test_whom_nobody_needs_is_forgotten_and_a_later_merge_still_leads_to_the_same_fact(ward: Ward) -> None:
    ward.world.load(patient("a", "1"), encounter("e", "a"), consent("c", "a"))
    record = ward.looked_up("1")
    assert ward.world.commit().counts["created"] == 1
    ward.nobody_asks()
    assert ward.world.refresh().dropped == 1
    for table in ("patient", "encounter", "encounter_identifier", "consent", "lookup"):
        assert ward.rows(f"SELECT count(*) FROM mirror.{table} WHERE tenant = %s") == [(0,)], table
    ward.world.load(patient("b", "2", "1"), patient("a", **MERGED), encounter("e", "b"))
    merged = ward.tell("2", source="other")
    ward.decide()
    ward.world.refresh()
    assert ward.held() == ["a", "b"], "who bore the number before is looked at again"
    ward.decide()
    assert ward.stage.candidate(merged)["business_key"] == ward.stage.candidate(record)["business_key"]
    assert ward.world.commit().written == 0
    assert len(ward.world.ehr.search("Observation")) == 1


def test_whom_open_work_needs_is_not_forgotten(ward: Ward) -> None:
    ward.world.load(patient("a", "1"), patient("b", "2", deceasedBoolean=True), patient("d", "4"))
    approved, reviewed = ward.looked_up("1"), ward.looked_up("2")
    assert (ward.end(approved)[0], ward.end(reviewed)[0]) == ("approved", "in_review")
    ward.looked_up("4")
    ward.world.change("DELETE FROM decision.outbox o USING decision.candidate c WHERE o.tenant = %s "
                      "AND c.candidate_id = o.candidate_id AND c.patient_id = 'd'")  # fmt: skip
    ward.nobody_asks()
    assert ward.world.refresh().dropped == 1
    assert ward.held() == ["a", "b"]


def test_a_row_of_somebody_known_keeps_them(ward: Ward) -> None:
    ward.world.load(patient("a", "1"))
    ward.looked_up("1")
    ward.world.commit()
    ward.nobody_asks()
    ward.tell("1", effective="2026-03-01T09:00:00Z")
    ward.decide()
    ward.world.commit()
    assert ward.world.refresh().dropped == 0
    assert ward.held() == ["a"]


def test_a_merge_is_followed_to_a_survivor_whom_nobody_asked_for(ward: Ward) -> None:
    ward.world.load(patient("b", "2"), patient("a", "1", **MERGED))
    record = ward.looked_up("1")
    assert ward.held() == ["a", "b"]
    assert ward.stage.candidate(record)["patient_id"] == "b"
    assert ward.world.commit().counts["created"] == 1


def test_a_patient_who_is_named_by_url_is_read_by_id(ward: Ward) -> None:
    ward.world.load(patient("a", "1"))
    base = ward.world.tenant.ehr.base_url
    here, nobody, elsewhere = (
        ward.tell(who={"identifiers": [{"system": URI, "value": url}]})
        for url in (f"{base}/Patient/a/_history/1", f"{base}/Patient/b", "https://ehr.stv.example/fhir/Patient/a")
    )
    ward.decide()
    assert ward.world.refresh().lookups == {"found": 1, "none": 2}
    ward.decide()
    assert ward.end(here) == ("approved", None)
    assert ward.end(nobody) == ("waiting", "patient_unknown")
    assert ward.end(elsewhere) == ("waiting", "patient_of_other_server")


def test_due_lookups_alone_do_not_read_everybody_again(ward: Ward) -> None:
    ward.world.load(*(patient(f"p{n}", str(n)) for n in range(8)))
    for n in range(7):
        ward.tell(str(n))
    ward.decide()
    ward.world.refresh()
    before = ward.rows("SELECT min(refreshed_at) FROM mirror.sync WHERE tenant = %s")
    ward.tell("7")
    ward.decide()
    report = ward.world.refresh()
    assert report.read["Patient"] == 1
    assert ward.rows("SELECT min(refreshed_at) FROM mirror.sync WHERE tenant = %s") == before, "no younger than it was"
    assert ward.world.refresh().read["Patient"] == 8, "nothing is due: all of it"
    assert ward.rows("SELECT min(refreshed_at) FROM mirror.sync WHERE tenant = %s") > before


def test_an_encounter_that_is_opened_later(ward: Ward) -> None:
    ward.world.load(patient("a", "1"))
    visit = [{"system": encounter("e", "a")["identifier"][0]["system"], "value": "visit-e"}]
    record = ward.tell("1", encounter=visit)
    ward.decide()
    ward.world.refresh()
    ward.decide()
    assert ward.end(record) == ("waiting", "encounter_unknown")
    ward.world.load(encounter("e", "a"))
    assert ward.world.refresh().lookups == {"found": 1}, "the patient was asked for again"
    ward.decide()
    assert ward.end(record)[0] == "approved"


def test_by_demographics_a_person_decides(make_ward: Callable[..., Ward]) -> None:
    ward = make_ward(matching={"probabilistic": "auto"})
    who = {"family": "Abernathy", "given": "Rosalind", "birth_date": "1980-02-03", "sex": "female"}
    name = [{"family": "Abernathy", "given": ["Rosalind"]}]
    ward.world.load(patient("a", "1", name=name, birthDate="1980-02-03", gender="female"))
    record = ward.tell(who=who)
    ward.decide()
    assert ward.end(record) == ("waiting", "patient_unknown")
    ward.world.refresh()
    ward.decide()
    assert ward.end(record) == ("in_review", "demographic_match")
    assert ward.stage.candidate(record)["patient_id"] == "a"


def test_batches_where_the_ehr_takes_them(make_ward: Callable[..., Ward]) -> None:
    ward = make_ward(ehr={"bundle_size": 20})
    ward.world.load(*(patient(f"p{n}", str(n)) for n in range(40)), encounter("e", "p3"), consent("c", "p3", "deny"))
    records = [ward.tell(str(n)) for n in range(40)]
    ward.decide()
    report = ward.world.refresh()
    assert report.requests < 8 + 40, "consents are asked for one by one"
    assert report.lookups == {"found": 40}
    ward.decide()
    assert [ward.end(one)[0] for one in records] == ["denied" if n == 3 else "approved" for n in range(40)]


def test_a_server_that_knows_no_lists_of_values_is_asked_one_by_one(make_ward: Callable[..., Ward], proxy: FaultProxy) -> None:
    nothing = Say(
        200, (("Content-Type", "application/fhir+json"),), b'{"resourceType": "Bundle", "type": "searchset", "total": 0}'
    )
    with FaultyLine(proxy.base_url) as line:
        line.rules.append(lambda seen: nothing if seen.path.endswith("_search") and b"%2C" in seen.body else None)
        ward = make_ward(line.base_url, ehr={"bundle_size": 20})
        ward.world.load(patient("a", "1"), patient("b", "2"), consent("c", "a", "deny"), consent("d", "b"))
        denied, permitted = ward.tell("1"), ward.tell("2")
        ward.decide()
        ward.world.refresh()
        ward.decide()
        assert (ward.end(denied)[0], ward.end(permitted)[0]) == ("denied", "approved")
        ward.world.refresh()
        assert ward.held() == ["a", "b"]
        assert ward.rows("SELECT count(*) FROM mirror.consent WHERE tenant = %s") == [(2,)]


def test_nobody_is_taken_before_their_consents_are_known(make_ward: Callable[..., Ward], proxy: FaultProxy) -> None:
    with FaultyLine(proxy.base_url) as line:
        ward = make_ward(line.base_url)
        ward.world.load(patient("a", "1"), patient("b", "2"), consent("c", "b", "deny"))
        ward.looked_up("1")
        record = ward.tell("2")
        ward.decide()
        line.always("POST", "Consent/_search", Say(500))
        with pytest.raises(TargetError, match="server_error"):
            ward.world.refresh()
        ward.decide()
        assert ward.held() == ["a"]
        assert ward.end(record) == ("waiting", "patient_unknown")
        line.rules.clear()
        ward.world.refresh()
        ward.decide()
        assert ward.end(record)[0] == "denied"


def test_a_patient_whom_the_ehr_does_not_show_stops_nobody_else(make_ward: Callable[..., Ward], proxy: FaultProxy) -> None:
    with FaultyLine(proxy.base_url) as line:
        ward = make_ward(line.base_url, ehr={"bundle_size": 20})
        ward.world.load(patient("vip", "1"), patient("a", "2"), consent("c", "vip"))
        vip, other = ward.tell("1"), ward.tell("2")
        ward.decide()
        line.rules.append(lambda seen: refusal(403) if b"vip" in seen.body and "Consent" in seen.path else None)
        with capture_logs() as lines:
            assert ward.world.refresh().refused == 1
        assert [line["code"] for line in lines if line["event"] == "a lookup was refused"]
        ward.decide()
        assert ward.end(other) == ("approved", None)
        assert ward.end(vip) == ("waiting", "lookup_refused"), "without consents nothing is known of them"
        assert ward.held() == ["a"]
        line.rules.clear()
        line.always("POST", "Consent/_search", refusal(403))
        ward.grow_old()
        with pytest.raises(TargetError, match="forbidden"):
            ward.world.refresh()
        assert ward.held() == [], "and nobody else's consents are known either"


def test_a_search_that_ignores_what_it_was_asked_for_is_not_believed(make_ward: Callable[..., Ward], sekmet: Sekmet) -> None:
    with FaultyLine(sekmet.base_url) as line:
        ward = make_ward(line.base_url)
        ward.world.load(patient("a", "1"), patient("b", "2"))
        everybody = sekmet.chart._send("GET", "/Patient")
        line.always(
            "POST", "Patient/_search", Say(200, (("Content-Type", "application/fhir+json"),), json.dumps(everybody).encode())
        )
        record = ward.looked_up("3")
        assert ward.end(record) == ("waiting", "lookup_unreliable")
        assert ward.held() == []


def test_an_ehr_that_is_down_leaves_everything_as_it_was(ward: Ward, proxy: FaultProxy) -> None:
    ward.world.load(patient("a", "1"))
    ward.looked_up("1")
    proxy.away()
    ward.grow_old()
    with pytest.raises(TargetError):
        ward.world.refresh()
    assert ward.held() == ["a"]
    proxy.back()
    ward.world.refresh()
    assert ward.held() == ["a"]
