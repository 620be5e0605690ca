"""Matching against a real mirror: rows find their patient, a person, or wait."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeTenant, OpenLayer
from decide.mirror import MRN, NOW, VISIT, Mirror, mrn, outcome, ref, ssn

from fhir_writeback_dagster.canonical import Identifier
from fhir_writeback_dagster.decide.matching.encounters import EncounterRequest
from fhir_writeback_dagster.decide.matching.patients import EncounterMatch, match_patients
from fhir_writeback_dagster.orchestration.run_context import RunContext


@pytest.fixture
def mirror(make_tenant: MakeTenant, open_run: OpenLayer) -> Mirror:
    return Mirror(open_run, make_tenant())


def test_an_identifier_that_one_patient_bears_matches(mirror: Mirror) -> None:
    mirror.patient("p1", mrn("100"), ssn("1"))
    mirror.patient("p2", mrn("200"))
    first, second = mirror.match(ref(mrn("100")), ref(mrn("200")))
    assert [outcome(first), outcome(second)] == [("matched", "p1", None), ("matched", "p2", None)]
    assert first.matched_by != second.matched_by


def test_the_match_names_the_hmac_that_the_mirror_holds(mirror: Mirror, open_run: OpenLayer) -> None:
    mirror.patient("p1", mrn("100"))
    (match,) = mirror.match(ref(mrn("999"), mrn("100")))
    with open_run("decide", mirror.tenant) as run:
        assert match.matched_by == run.identity.digest("identifier", MRN, "100")


def test_a_patient_who_is_not_there_yet_waits(mirror: Mirror) -> None:
    assert outcome(mirror.match(ref(mrn("100")))[0]) == ("waiting", None, "patient_unknown")
    mirror.patient("p1", mrn("100"))
    assert outcome(mirror.match(ref(mrn("100")))[0]) == ("matched", "p1", None)


def test_the_system_of_an_identifier_counts(mirror: Mirror) -> None:
    mirror.patient("p1", mrn("100"))
    assert outcome(mirror.match(ref(ssn("100")))[0]) == ("waiting", None, "patient_unknown")


def test_identifiers_of_two_patients_go_to_a_person(mirror: Mirror) -> None:
    mirror.patient("p1", mrn("100"))
    mirror.patient("p2", ssn("1"))
    (match,) = mirror.match(ref(mrn("100"), ssn("1")))
    assert outcome(match) == ("review", None, "several_patients")
    assert match.matched_by is None


def test_one_identifier_that_two_patients_bear_goes_to_a_person(mirror: Mirror) -> None:
    mirror.patient("p1", mrn("100"))
    mirror.patient("p2", mrn("100"))
    assert outcome(mirror.match(ref(mrn("100")))[0]) == ("review", None, "several_patients")


def test_a_row_that_names_nobody_goes_to_a_person(mirror: Mirror) -> None:
    mirror.patient("p1", mrn(" "))
    empty, blank = mirror.match(ref(family="Smith", birth_date="1980-02-01"), ref(mrn(" ")))
    assert outcome(empty) == ("review", None, "no_identifiers")
    assert outcome(blank) == ("waiting", None, "patient_unknown")


@pytest.mark.parametrize(("chart", "reason"), [({"deceased": True}, "patient_deceased"), ({"active": False}, "patient_inactive")])
def test_the_dead_and_the_inactive_go_to_a_person(mirror: Mirror, chart: dict[str, Any], reason: str) -> None:
    mirror.patient("p1", mrn("100"), **chart)
    assert outcome(mirror.match(ref(mrn("100")))[0]) == ("review", "p1", reason)


@pytest.mark.parametrize(
    "row",
    [
        {"birth_date": "1980-02-01", "family": "SMITH", "given": "ann", "sex": "female"},
        {"birth_date": "1980-02"},
        {"family": "  smith "},
        {"sex": "unknown"},
        {"given": "Annie"},
        {"given": "A."},
        {"family": ""},
    ],
)
def test_demographics_that_agree_or_say_nothing_do_not_hinder(mirror: Mirror, row: dict[str, str]) -> None:
    mirror.patient("p1", mrn("100"))
    assert outcome(mirror.match(ref(mrn("100"), **row))[0]) == ("matched", "p1", None)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"birth_date": "1980-01-02"}, "birth_date"),
        ({"birth_date": "1981"}, "birth_date"),
        ({"family": "Smyth"}, "family"),
        ({"family": "Ann", "given": "Smith"}, "family"),
        ({"sex": "male"}, "sex"),
        ({"given": "Gertrude", "family": "Smith"}, "given"),
    ],
)
def test_demographics_that_contradict_the_chart_go_to_a_person(mirror: Mirror, row: dict[str, str], field: str) -> None:
    mirror.patient("p1", mrn("100"))
    (match,) = mirror.match(ref(mrn("100"), **row))
    assert outcome(match) == ("review", "p1", "demographics_differ")
    assert match.evidence["fields"][field] == "differs"


@pytest.mark.parametrize(
    ("chart", "row"),
    [
        ("Müller", "MUELLER"),
        ("Müller", "Muller"),
        ("Ångström", "Aangstroem"),
        ("Łukasiewicz", "lukasiewicz"),
        ("O'Brien", "OBRIEN"),
        ("O’Brien", "O'Brien"),
        ("de la Cruz", "DeLaCruz"),
        ("García Márquez", "Garcia"),
        ("Smith-Jones", "Jones"),
        ("Straße", "STRASSE"),
        ("Нгуен", "НГУЕН"),
        ("Nguyễn", "Nguye\u0302\u0303n"),
    ],
)
def test_ways_to_write_one_family_name_agree(mirror: Mirror, chart: str, row: str) -> None:
    mirror.patient("p1", mrn("100"), family=chart)
    assert outcome(mirror.match(ref(mrn("100"), family=row))[0]) == ("matched", "p1", None)


def test_another_script_is_not_guessed(mirror: Mirror) -> None:
    mirror.patient("p1", mrn("100"), family="Иванов")
    assert mirror.match(ref(mrn("100"), family="Ivanov"))[0].reason == "demographics_differ"


def test_a_maiden_name_of_the_chart_counts(mirror: Mirror) -> None:
    mirror.patient("p1", mrn("100"), name=[{"family": "Smith"}, {"family": "Jones", "use": "maiden"}])
    assert outcome(mirror.match(ref(mrn("100"), family="Jones"))[0]) == ("matched", "p1", None)


def test_a_second_identifier_that_the_chart_has_otherwise_goes_to_a_person(mirror: Mirror) -> None:
    mirror.patient("p1", mrn("100"), ssn("111-22-3333"))
    wrong, absent = mirror.match(ref(mrn("100"), ssn("111-22-3334")), ref(mrn("100"), Identifier(system="urn:x", value="1")))
    assert outcome(wrong) == ("review", "p1", "identifiers_differ")
    assert outcome(absent) == ("matched", "p1", None)


class TestMerges:
    def test_the_survivor_is_followed(self, mirror: Mirror) -> None:
        mirror.patient("old", mrn("100"), active=False, replaced_by="mid")
        mirror.patient("mid", mrn("150"), active=False, replaced_by="new")
        mirror.patient("new", mrn("200"))
        (match,) = mirror.match(ref(mrn("100")))
        assert outcome(match) == ("matched", "new", None)
        assert match.evidence["merges"] == 2

    def test_both_numbers_of_a_merged_patient_are_one_patient(self, mirror: Mirror, open_run: OpenLayer) -> None:
        mirror.patient("old", mrn("100"), active=False, replaced_by="new")
        mirror.patient("new", mrn("200"))
        (match,) = mirror.match(ref(mrn("100"), mrn("200")))
        assert outcome(match) == ("matched", "new", None)
        with open_run("decide", mirror.tenant) as run:
            assert match.matched_by == run.identity.digest("identifier", MRN, "200")

    @pytest.mark.parametrize("survivor", [{"birth_date": "1981-02-01"}, {"family": "Jones"}, {"gender": "male"}])
    def test_a_survivor_who_differs_goes_to_a_person(self, mirror: Mirror, survivor: dict[str, Any]) -> None:
        mirror.patient("old", mrn("100"), active=False, replaced_by="new")
        mirror.patient("new", mrn("200"), **survivor)
        assert outcome(mirror.match(ref(mrn("100")))[0]) == ("review", "new", "merged_patient_differs")

    def test_a_survivor_of_whom_nothing_is_known_goes_to_a_person(self, mirror: Mirror) -> None:
        mirror.patient("old", mrn("100"), active=False, replaced_by="new")
        mirror.patient("new", name=[], birth_date="")
        assert mirror.match(ref(mrn("100")))[0].reason == "merged_patient_differs"

    def test_one_differing_link_of_a_chain_is_enough(self, mirror: Mirror) -> None:
        mirror.patient("old", mrn("100"), replaced_by="mid")
        mirror.patient("mid", birth_date="1990-01-01", replaced_by="new")
        mirror.patient("new")
        assert outcome(mirror.match(ref(mrn("100")))[0]) == ("review", "new", "merged_patient_differs")

    def test_nobody_comes_back_to_life(self, mirror: Mirror) -> None:
        mirror.patient("old", mrn("100"), deceased=True, replaced_by="new")
        mirror.patient("new")
        assert mirror.match(ref(mrn("100")))[0].reason == "merged_patient_differs"

    def test_a_dead_survivor_goes_to_a_person(self, mirror: Mirror) -> None:
        mirror.patient("old", mrn("100"), replaced_by="new")
        mirror.patient("new", deceased=True)
        assert outcome(mirror.match(ref(mrn("100")))[0]) == ("review", "new", "patient_deceased")

    def test_a_row_is_compared_with_the_survivor(self, mirror: Mirror) -> None:
        mirror.patient("old", mrn("100"), replaced_by="new")
        mirror.patient("new")
        assert mirror.match(ref(mrn("100"), birth_date="1999-09-09"))[0].reason == "demographics_differ"

    def test_a_survivor_who_is_not_mirrored_yet_is_waited_for(self, mirror: Mirror) -> None:
        mirror.patient("old", mrn("100"), replaced_by="new")
        assert outcome(mirror.match(ref(mrn("100")))[0]) == ("waiting", None, "survivor_unknown")

    @pytest.mark.parametrize("links", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "c", "c": "b"}])
    def test_a_cycle_ends_and_goes_to_a_person(self, mirror: Mirror, links: dict[str, str]) -> None:
        for one, other in links.items():
            mirror.patient(one, mrn(one), replaced_by=other)
        assert {m.reason for m in mirror.match(*(ref(mrn(one)) for one in links))} == {"merge_cycle"}


def test_identifiers_under_an_older_generation_of_the_key_are_found(
    make_tenant: MakeTenant, open_run: OpenLayer, home: Path
) -> None:
    tenant = make_tenant()
    Mirror(open_run, tenant).patient("p1", mrn("100"))
    newer = home / "keys" / "newer.identity"
    newer.touch(mode=0o600)
    newer.write_bytes(base64.b64encode(os.urandom(32)))
    file = home / "tenants" / f"{tenant.tenant}.yaml"
    old = f"file://keys/{tenant.tenant}.identity"
    file.write_text(file.read_text().replace(f"- {old}", f"- file://keys/newer.identity\n  - {old}"))
    mirror = Mirror(open_run, tenant)
    mirror.patient("p2", mrn("200"))
    assert [outcome(m) for m in mirror.match(ref(mrn("100")), ref(mrn("200")))] == [
        ("matched", "p1", None),
        ("matched", "p2", None),
    ]


def test_two_tenants_with_the_same_number_do_not_see_each_other(make_tenant: MakeTenant, open_run: OpenLayer, home: Path) -> None:
    one, other = make_tenant(), make_tenant()
    # The same identity key on purpose: equal HMACs, so that only the predicate and row-level security keep them apart.
    (home / "keys" / f"{other.tenant}.identity").write_bytes((home / "keys" / f"{one.tenant}.identity").read_bytes())
    mirrors = [Mirror(open_run, one), Mirror(open_run, other)]
    mirrors[0].patient("p-one", mrn("100"))
    mirrors[0].encounter("e-one", "1", "p-one")
    assert outcome(mirrors[1].match(ref(mrn("100")))[0]) == ("waiting", None, "patient_unknown")
    assert mirrors[1].encounters((["1"], "p-one"))[0].reason == "encounter_unknown"
    mirrors[1].patient("p-other", mrn("100"))
    assert [m.match(ref(mrn("100")))[0].patient_id for m in mirrors] == ["p-one", "p-other"]
    with open_run("decide", other) as run, run.store.tenant(run.id) as connection:
        seen = connection.execute("SELECT patient_id FROM mirror.patient_identifier").fetchall()  # no predicate at all
        assert set(seen) == {("p-other",)}


def test_another_target_of_the_tenant_is_another_chart(mirror: Mirror, open_run: OpenLayer) -> None:
    mirror.patient("p1", mrn("100"))
    ehr = mirror.tenant.ehr.model_copy(update={"target": "second"})
    with open_run("decide", mirror.tenant) as run, run.store.tenant(run.id) as connection:
        elsewhere = RunContext(
            run.settings, run.tenant.model_copy(update={"ehr": ehr}), run.store, run.sealer, run.identity, run.run_id
        )
        assert match_patients(connection, elsewhere, [ref(mrn("100"))])[0].reason == "patient_unknown"


def test_a_batch_is_two_queries_and_opens_only_what_it_must(
    mirror: Mirror, open_run: OpenLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(40):
        mirror.patient(f"p{n}", mrn(str(n)))
    with open_run("decide", mirror.tenant) as run, run.store.tenant(run.id) as connection:
        statements = _count(connection, "execute", monkeypatch)
        opened = _count(run.sealer, "open_json", monkeypatch)
        matches = match_patients(
            connection, run, [ref(mrn(str(n % 40)), family="Smith" if n % 40 < 3 else None) for n in range(400)]
        )
        assert [m.outcome for m in matches] == ["matched"] * 400
        assert (len(statements), len(opened)) == (2, 3)
        assert match_patients(connection, run, []) == []
        assert len(statements) == 2


def _count(owner: object, name: str, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    calls: list[None] = []
    original: Callable[..., Any] = getattr(owner, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_evidence_holds_no_value(mirror: Mirror) -> None:
    mirror.patient("p1", mrn("4711"), ssn("111"), family="Zaphod")
    (match,) = mirror.match(ref(mrn("4711"), ssn("222"), family="Beeblebrox", birth_date="1999-09-09", sex="male"))
    for value in ("4711", "222", "111", "Zaphod", "eeblebrox", "1999", "1980"):
        assert value not in repr(match.evidence)


class TestEncounters:
    def test_a_row_without_an_encounter(self, mirror: Mirror) -> None:
        assert mirror.encounters(([], "p1")) == [EncounterMatch("none")]

    def test_the_patient_s_encounter_with_its_status_and_times(self, mirror: Mirror) -> None:
        mirror.patient("p1")
        mirror.encounter("e1", "1", "p1", "finished")
        assert mirror.encounters((["1"], "p1")) == [EncounterMatch("matched", "e1", "finished", NOW, None, None)]

    def test_an_unknown_one_is_waited_for(self, mirror: Mirror) -> None:
        assert mirror.encounters((["1"], "p1"))[0] == EncounterMatch("waiting", reason="encounter_unknown")

    @pytest.mark.parametrize("owner", ["p2", None])
    def test_one_of_another_patient_goes_to_a_person(self, mirror: Mirror, owner: str | None) -> None:
        mirror.encounter("e1", "1", owner)
        assert mirror.encounters((["1"], "p1"))[0] == EncounterMatch("review", reason="encounter_of_other_patient")

    def test_one_of_the_patient_before_the_merge_is_the_patient_s(self, mirror: Mirror) -> None:
        mirror.patient("old", replaced_by="mid")
        mirror.patient("mid", replaced_by="new")
        mirror.patient("new")
        mirror.encounter("e1", "1", "old")
        assert mirror.encounters((["1"], "new"))[0].encounter_id == "e1"

    def test_a_number_that_others_have_too_finds_the_patient_s_own(self, mirror: Mirror) -> None:
        mirror.encounter("e1", "1", "p1")
        mirror.encounter("e2", "1", "p2")
        assert [m.encounter_id for m in mirror.encounters((["1"], "p1"), (["1"], "p2"))] == ["e1", "e2"]

    def test_two_of_the_patient_go_to_a_person(self, mirror: Mirror) -> None:
        mirror.encounter("e1", "1", "p1")
        mirror.encounter("e2", "2", "p1")
        assert mirror.encounters((["1", "2"], "p1"))[0] == EncounterMatch("review", reason="several_encounters")


class TestEncounterByTime:
    """For a row that names none where a tenant turns it on, and for one whose number never comes."""

    DAY = (datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
    AT = (datetime(2026, 3, 1, 9, tzinfo=UTC), datetime(2026, 3, 1, 9, tzinfo=UTC))

    @pytest.fixture
    def mirror(self, make_tenant: MakeTenant, open_run: OpenLayer) -> Mirror:
        return Mirror(open_run, make_tenant(None, matching={"encounter_by_time": True}))

    def ask(self, mirror: Mirror, at: tuple[datetime, datetime] | None = AT, patient: str = "p1") -> tuple[str, str | None]:
        (found,) = mirror.ask_encounters(EncounterRequest((), patient, at))
        return found.outcome, found.encounter_id or found.reason

    def test_it_is_off_unless_the_tenant_wants_it(self, make_tenant: MakeTenant, open_run: OpenLayer) -> None:
        mirror = Mirror(open_run, make_tenant())
        mirror.encounter("e1", "1", "p1", period=self.DAY)
        assert self.ask(mirror) == ("none", None)

    def test_the_patient_s_only_one_that_holds_the_time(self, mirror: Mirror) -> None:
        mirror.encounter("e1", "1", "p1", "finished", self.DAY)
        mirror.encounter("before", "2", "p1", "finished", (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 9, tzinfo=UTC)))
        mirror.encounter("void", "3", "p1", "entered-in-error", self.DAY)
        mirror.encounter("planned", "4", "p1", "planned", self.DAY)
        mirror.encounter("another's", "5", "p2", "finished", self.DAY)
        assert self.ask(mirror) == ("matched", "e1")
        assert self.ask(mirror, self.DAY) == ("matched", "e1"), "a date holds its whole day"

    def test_two_that_hold_it_go_to_a_person(self, mirror: Mirror) -> None:
        mirror.encounter("e1", "1", "p1", "finished", self.DAY)
        mirror.encounter("e2", "2", "p1", "in-progress", (self.DAY[0], None))
        assert self.ask(mirror) == ("review", "several_encounters")

    def test_nothing_is_guessed_where_none_holds_it_or_the_row_has_no_time(self, mirror: Mirror) -> None:
        mirror.encounter("e1", "1", "p1", "finished", self.DAY)
        late = datetime(2026, 3, 3, tzinfo=UTC)
        assert self.ask(mirror, (late, late)) == ("none", None)
        assert self.ask(mirror, None) == ("none", None)
        assert self.ask(mirror, patient="p2") == ("none", None)

    @pytest.mark.parametrize("by_time", [False, True])
    def test_it_stands_in_for_a_number_that_never_came(
        self, make_tenant: MakeTenant, open_run: OpenLayer, *, by_time: bool
    ) -> None:
        mirror = Mirror(open_run, make_tenant(None, matching={"encounter_by_time": by_time}))
        mirror.encounter("e1", "1", "p1", "finished", self.DAY)
        unknown = EncounterRequest((Identifier(system=VISIT, value="9"),), "p1", self.AT)
        waited = replace(unknown, overdue=True)
        late = datetime(2026, 3, 3, tzinfo=UTC)
        elsewhere = [replace(waited, patient_id="p2"), replace(waited, at=None), replace(waited, at=(late, late))]
        found, *others = mirror.ask_encounters(waited, unknown, *elsewhere)
        assert found == EncounterMatch("matched", "e1", "finished", *self.DAY, by_time=True)
        assert others == [EncounterMatch("waiting", reason="encounter_unknown")] * 4
        mirror.encounter("e2", "2", "p1", "in-progress", (self.DAY[0], None))
        assert mirror.ask_encounters(waited)[0].outcome == "waiting", "two that hold the time: nobody knows which is meant"

    def test_a_number_that_the_row_names_decides_alone(self, mirror: Mirror) -> None:
        mirror.encounter("e1", "1", "p1", "finished", self.DAY)
        (found,) = mirror.ask_encounters(EncounterRequest((Identifier(system=VISIT, value="9"),), "p1", self.AT))
        assert found == EncounterMatch("waiting", reason="encounter_unknown")
