"""Matching without a database: what is weighed, and whom a probability alone must never match."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_writeback_dagster.decide.matching.comparison import CLOSE, DIFFERS, PARTIAL, SAME, SWAPPED, ComparedPerson, person_of
from fhir_writeback_dagster.decide.matching.model import Match
from fhir_writeback_dagster.decide.matching.scoring import WEIGHTS, Model, Thresholds, decide, doubt_of
from fhir_writeback_dagster.decide.matching.tuning import evaluate
from fhir_writeback_dagster.decide.matching.tuning.tables import MemoryChart, ref_of, resource_of
from fhir_writeback_dagster.rules.people.demographics import block_keys, of_patient, of_row
from fhir_writeback_dagster.rules.people.names import forms, jaro_winkler, nicknames, one_slip
from fhir_writeback_dagster.rules.people.phonetic import sound

ANN = {
    "given": "Marta",
    "family": "Zelenka",
    "birth_date": "1980-02-01",
    "sex": "F",
    "line": "12 Rosewood Avenue",
    "city": "Springfield",
    "postal_code": "62704",
    "state": "IL",
    "phone": "+1 217 555 0142",
    "ssn": "123-45-6789",
    "mrn": "A100",
}
NO_NUMBERS = {k: v for k, v in ANN.items() if k not in ("ssn", "mrn")}


def others(count: int = 200) -> dict[str, dict[str, str]]:
    """A chart's other patients: different in all fields."""
    return {
        f"o{n}": {
            "given": f"Given{n}x",
            "family": f"Family{n}y",
            "birth_date": f"19{n % 90 + 10}-{n % 12 + 1:02d}-{n % 27 + 1:02d}",
            "sex": "MF"[n % 2],
            "line": f"{n} Other Street",
            "city": f"Town{n % 20}",
            "postal_code": f"{10000 + n}",
            "state": "NY",
            "phone": f"212555{n:04d}",
            "ssn": f"{900000000 + n * 1111}",
            "mrn": f"B{n * 17}",
        }
        for n in range(count)
    }


def find(row: dict[str, str], **chart: dict[str, str]) -> Match:
    people = MemoryChart({name: resource_of(name, columns) for name, columns in (others() | chart).items()})
    (found,) = evaluate.find(people, [("", ref_of(row))])
    return evaluate.match_of(people, found, Thresholds())


def seen(match: Match) -> tuple[str, str | None, object]:
    return match.outcome, match.patient_id, match.evidence.get("because") or match.reason


def shown(match: Match) -> list[str]:
    return [candidate["patient_id"] for candidate in match.evidence.get("candidates", ())]


def person(columns: dict[str, str]) -> ComparedPerson:
    return person_of(of_row(ref_of(columns)))


def levels(one: dict[str, str], other: dict[str, str]) -> dict[str, str]:
    return dict(Model(2).compare(person(one), person(other)))


def test_one_person_in_all_fields_is_matched() -> None:
    assert seen(find(ANN, ann=ANN)) == ("matched", "ann", None)
    assert seen(find(NO_NUMBERS, ann=ANN)) == ("matched", "ann", None)


def test_names_and_birth_date_alone_are_enough_in_a_small_chart() -> None:
    row = {name: ANN[name] for name in ("given", "family", "birth_date")}
    assert seen(find(row, ann=ANN)) == ("matched", "ann", None)


def test_and_not_in_a_large_one() -> None:
    row = person({name: ANN[name] for name in ("given", "family", "birth_date")})
    assert decide([Model(10_000_000).score(row, person(ANN), "ann")], Thresholds()).outcome == "review"


def test_nobody_is_found_for_a_stranger() -> None:
    stranger = {"given": "Olaf", "family": "Nobody", "birth_date": "2001-01-01", "city": "Oslo"}
    assert seen(find(stranger, ann=ANN)) == ("waiting", None, "patient_unknown")


@pytest.mark.parametrize(
    "change",
    [
        {"given": "Marta Sofia"},
        {"given": "Martha"},
        {"family": "ZELENKA"},
        {"family": "Zélenka"},
        {"birth_date": "19800201"},
        {"ssn": "123456789"},
        {"phone": "", "line": "", "city": ""},
        {"line": "12 Rosewood Ave.", "city": "Sprngfield"},
        {"line": "99 Elsewhere Road", "city": "Boston", "postal_code": "02101", "state": "MA", "phone": "6175550000"},
    ],
)
def test_a_number_bridges_what_contradicts_nothing(change: dict[str, str]) -> None:
    assert seen(find(ANN | change, ann=ANN)) == ("matched", "ann", None)


@pytest.mark.parametrize(
    "change",
    [
        {"family": "Zelenca"},
        {"birth_date": "1980-01-02"},  # day and month exchanged
        {"birth_date": "1980-02-10"},
        {"given": "Zelenka", "family": "Marta"},
        {"given": "Maria", "family": "Zelenca", "birth_date": "1980-02-10"},
        {"postal_code": "62740", "line": "12 Rosewod Ave", "family": "Selenka"},
    ],
)
@pytest.mark.parametrize("numbers", [True, False])
def test_slips_and_swaps_show_a_person_whom_they_may_be(change: dict[str, str], numbers: bool) -> None:
    match = find((ANN if numbers else NO_NUMBERS) | change, ann=ANN)
    assert (match.outcome, match.patient_id) == ("review", "ann")
    assert shown(match) == ["ann"]


@pytest.mark.parametrize(
    ("chart", "row"),
    [
        ({"given": "José"}, {"given": "Jose"}),
        ({"family": "Müller"}, {"family": "Mueller"}),
        ({"family": "Nguyễn"}, {"family": "NGUYEN"}),
        ({"family": "Иванова", "given": "Ольга"}, {"family": "ИВАНОВА", "given": "ольга"}),
    ],
)
def test_names_beyond_ascii(chart: dict[str, str], row: dict[str, str]) -> None:
    assert seen(find(NO_NUMBERS | row, ann=NO_NUMBERS | chart)) == ("matched", "ann", None)


@pytest.mark.parametrize(("chart", "row"), [("Robert", "Bob"), ("Margarete", "Gretchen")])
def test_a_nickname_goes_to_a_person_as_commit_could_not_verify_it(chart: str, row: str) -> None:
    assert seen(find(NO_NUMBERS | {"given": row}, ann=NO_NUMBERS | {"given": chart})) == ("review", "ann", "not_verifiable")


class TestNeverWithoutAPerson:
    """Everything agrees that a household shares."""

    @pytest.mark.parametrize("given", ["Maria", "Martha", "Berta", "Jonas", "M.", ""])
    def test_a_twin_who_is_not_in_the_chart(self, given: str) -> None:
        assert seen(find(NO_NUMBERS | {"given": given}, ann=NO_NUMBERS))[:2] == ("review", "ann")

    def test_both_twins_in_the_chart(self) -> None:
        twin = NO_NUMBERS | {"given": "Maria"}
        match = find(NO_NUMBERS, ann=NO_NUMBERS, twin=twin)
        assert (match.outcome, shown(match)) == ("review", ["ann", "twin"])

    def test_a_twin_with_the_neighbour_s_number(self) -> None:
        match = find(ANN | {"given": "Maria", "mrn": "A101", "ssn": "123-45-6798"}, ann=ANN)
        assert match.outcome == "review"

    @pytest.mark.parametrize("birth_date", ["2010-02-01", "1990-02-01", "1908-02-01", "1980-07-23"])
    def test_a_child_of_the_same_name_in_the_same_house(self, birth_date: str) -> None:
        assert find(NO_NUMBERS | {"birth_date": birth_date}, ann=NO_NUMBERS).outcome == "review"

    @pytest.mark.parametrize("given", ["Maria", "M", ""])
    def test_a_twin_who_bears_a_parent_s_social_security_number_too(self, given: str) -> None:
        assert seen(find(ANN | {"given": given, "mrn": ""}, ann=ANN)) == ("review", "ann", "given_name_not_the_same")

    def test_a_child_with_the_parent_s_social_security_number(self) -> None:
        assert seen(find(ANN | {"birth_date": "2010-02-01", "mrn": ""}, ann=ANN))[::2] == ("review", "demographics_differ")

    @pytest.mark.parametrize("mrn", ["A010", "A101", "A1000"])
    def test_a_number_with_a_slip(self, mrn: str) -> None:
        assert seen(find(NO_NUMBERS | {"mrn": mrn}, ann=ANN)) == ("review", "ann", "identifiers_differ")

    def test_a_number_whose_digits_are_exchanged_to_somebody_else_s(self) -> None:
        match = find(NO_NUMBERS | {"mrn": "A010"}, ann=ANN, other=others()["o7"] | {"mrn": "A010"})
        assert seen(match) == ("review", "other", "demographics_differ")
        assert shown(match) == ["ann"], "the person who decides sees who it may be instead"

    def test_numbers_of_two_patients(self) -> None:
        match = find(ANN | {"mrn": "A010"}, ann=ANN, other=others()["o7"] | {"mrn": "A010"})
        assert (match.outcome, match.reason, shown(match)) == ("review", "several_patients", ["ann"])

    def test_another_sex(self) -> None:
        assert seen(find(NO_NUMBERS | {"sex": "M"}, ann=NO_NUMBERS))[2] == "contradiction"

    def test_a_social_security_number_and_nothing_else(self) -> None:
        assert find({"ssn": ANN["ssn"]}, ann=ANN).outcome == "review"

    def test_two_records_of_one_person(self) -> None:
        assert seen(find(NO_NUMBERS, ann=NO_NUMBERS, again=NO_NUMBERS))[::2] == ("review", "several_candidates")

    def test_the_first_of_january_and_a_common_name(self) -> None:
        common = {
            f"c{n}": {"given": "Maria", "family": "Garcia", "birth_date": f"19{50 + n % 40}-01-01", "city": f"Town{n}"}
            for n in range(300)
        }
        row = {"given": "Maria", "family": "Garcia", "birth_date": "1960-01-01"}
        assert find(row, **common).outcome != "matched"


class TestHouseholds:
    SISTER = NO_NUMBERS | {"given": "Hildegard", "birth_date": "1986-11-23"}

    def test_who_shares_only_the_home_is_not_taken_for_the_patient(self) -> None:
        assert seen(find(self.SISTER, ann=ANN)) == ("waiting", None, "patient_unknown")

    def test_the_household_does_not_hold_back_who_is_certain(self) -> None:
        family = {f"h{n}": self.SISTER | {"given": given} for n, given in enumerate(("Hildegard", "Olaf", "Bruno"))}
        assert seen(find(NO_NUMBERS, ann=ANN, **family)) == ("matched", "ann", None)

    def test_an_equal_home_never_weighs_against(self) -> None:
        for size in (2, 100, 100_000):
            model, row = Model(size), {name: ANN[name] for name in ("given", "family", "birth_date")}
            assert model.score(person(NO_NUMBERS), person(ANN), "").bits >= model.score(person(row), person(ANN), "").bits


def test_who_moved_is_no_contradiction_to_a_number() -> None:
    moved = {"line": "1 New Road", "city": "Boston", "postal_code": "02101", "state": "MA", "phone": "6175550000"}
    assert seen(find({"mrn": "A100", "family": "Zelenka"} | moved, ann=ANN)) == ("matched", "ann", None)


@pytest.mark.parametrize(
    ("one", "other", "field", "level"),
    [
        ({"given": "Ann"}, {"given": "ann"}, "given", SAME),
        ({"given": "Ann"}, {"given": "Annie"}, "given", SAME),
        ({"given": "Ann"}, {"given": "A"}, "given", CLOSE),
        ({"given": "Ann"}, {"given": "Bert"}, "given", DIFFERS),
        ({"given": "Ann", "family": "Lee"}, {"given": "Lee", "family": "Ann"}, "family", SWAPPED),
        ({"given": "Lee"}, {"family": "Lee", "given": "Xu"}, "family", SWAPPED),
        ({"birth_date": "1980-02-01"}, {"birth_date": "1980/2/1"}, "birth_date", SAME),
        ({"birth_date": "1980-02-01"}, {"birth_date": "1980-01-02"}, "birth_date", CLOSE),
        ({"birth_date": "1980-02-01"}, {"birth_date": "1980-02-07"}, "birth_date", CLOSE),
        ({"birth_date": "1980-02-01"}, {"birth_date": "1990-02-01"}, "birth_date", PARTIAL),
        ({"birth_date": "1980-02-01"}, {"birth_date": "1980-11-30"}, "birth_date", PARTIAL),
        ({"birth_date": "1980-02-01"}, {"birth_date": "1980"}, "birth_date", PARTIAL),
        ({"birth_date": "1980-02-01"}, {"birth_date": "1977-11-30"}, "birth_date", DIFFERS),
        ({"line": "12 Rosewood Avenue"}, {"line": "Rosewood Avenue 12"}, "line", SAME),
        ({"line": "12 Rosewood Avenue"}, {"line": "12 Rosewod Ave"}, "line", CLOSE),
        ({"line": "12 Rosewood Avenue"}, {"line": "Unit 4, 33 Elm Avenue"}, "line", PARTIAL),
        ({"postal_code": "62704"}, {"postal_code": "62704-1234"}, "postal_code", SAME),
        ({"phone": "(217) 555-0142"}, {"phone": "+1 217 5550142"}, "phone", SAME),
        ({"phone": "044 668 18 00"}, {"phone": "+41 44 668 18 00"}, "phone", SAME),
        ({"sex": "F"}, {"sex": "female"}, "sex", SAME),
    ],
)
def test_levels(one: dict[str, str], other: dict[str, str], field: str, level: str) -> None:
    assert levels(one, other)[field] == level


@pytest.mark.parametrize(
    ("one", "other"),
    [({"given": "Ann", "sex": "unknown"}, {"family": "Lee", "sex": "F"}), ({"state": "IL"}, {"state": "Illinois"})],
)
def test_what_one_side_lacks_or_nobody_can_compare_weighs_nothing(one: dict[str, str], other: dict[str, str]) -> None:
    assert levels(one, other) == {}


def test_of_several_addresses_and_phones_the_best_counts() -> None:
    chart: dict[str, Any] = resource_of("ann", ANN)
    chart["address"].insert(0, {"use": "home", "line": ["1 New Road", "Apt 2"], "city": "Boston", "postalCode": "02101"})
    chart["telecom"] = [
        {"system": "email", "value": "ann@example.org"},
        {"system": "phone", "value": "6175550000"},
        {"system": "sms", "value": "217-555-0142"},
        {"value": 7},
    ]
    chart["name"].append({"family": "Müller", "use": "maiden"})
    found = Model(2).compare(person(NO_NUMBERS), person_of(of_patient(chart)))
    assert {field for field, level in found.items() if level != SAME} == set()
    assert block_keys(of_row(ref_of({"family": "Ulrich", "given": "X", "phone": "+1 617 555 0000"}))) & block_keys(
        of_patient(chart)
    )


@pytest.mark.parametrize(
    "broken", [{"address": "x"}, {"address": [7, {"line": 7, "city": []}]}, {"telecom": [{"system": "phone"}]}]
)
def test_what_r4_does_not_allow_counts_as_not_said(broken: dict[str, Any]) -> None:
    who = of_patient({"resourceType": "Patient"} | broken)
    assert (who.addresses, who.phones) == ((), ())


def test_weights_are_probabilities_and_agreement_weighs_more() -> None:
    for by_level in WEIGHTS.values():
        assert math.isclose(sum(m for m, _ in by_level.values()), 1, abs_tol=0.01)
        assert all(0 < u <= 1 for _, u in by_level.values())
        assert by_level[SAME][0] / by_level[SAME][1] > 1 > by_level[DIFFERS][0] / by_level[DIFFERS][1]


def test_two_near_candidates_go_to_a_person_although_one_is_nearer() -> None:
    best = Model(100).score(person(ANN), person(ANN), "ann")
    assert decide([best, replace(best, patient_id="b", bits=best.bits - 9)], Thresholds()).reason == "several_candidates"


words = st.text("abcdeé ß-'", max_size=8)


@given(words, words)
def test_likeness_is_symmetric_and_within_bounds(a: str, b: str) -> None:
    assert 0 <= jaro_winkler(a, b) <= 1.0000001
    assert math.isclose(jaro_winkler(a, b), jaro_winkler(b, a), abs_tol=0.2)  # Winkler's greedy matching is not quite symmetric
    assert one_slip(a, b) == one_slip(b, a)
    assert {len(sound(form[0])) for form in forms(a)} <= {4} or not a.isascii()


@given(st.text("abc", min_size=1, max_size=7), st.integers(0, 6), st.sampled_from("abcz"), st.sampled_from("irdt"))
def test_one_slip_is_one_slip(word: str, at: int, letter: str, how: str) -> None:
    at %= len(word)
    slipped = {
        "i": word[:at] + letter + word[at:],
        "r": word[:at] + letter + word[at + 1 :],
        "d": word[:at] + word[at + 1 :],
        "t": word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
    }[how]
    assert one_slip(word, slipped)
    assert not one_slip(f"{word}zz", f"yy{slipped}")


def test_known_likenesses() -> None:
    """Winkler's own examples."""
    assert jaro_winkler("martha", "marhta") == pytest.approx(0.9611, abs=1e-4)
    assert jaro_winkler("dwayne", "duane") == pytest.approx(0.84, abs=1e-4)
    assert jaro_winkler("dixon", "dicksonx") == pytest.approx(0.8133, abs=1e-4)
    assert {"robert", "rob", "bob"} <= nicknames("bob")
    assert sound("robert") == sound("rupert") == "r163"


@pytest.mark.parametrize("wrong", [("given",), ("family",), ("birth_date",), ("given", "birth_date"), ("family", "birth_date")])
def test_two_records_of_one_person_meet_in_a_block_whatever_field_is_wrong(wrong: tuple[str, ...]) -> None:
    row = NO_NUMBERS | {name: "1911-11-11" if name == "birth_date" else "qqqq 9" for name in wrong} | {"phone": ""}
    assert block_keys(of_row(ref_of(row))) & block_keys(of_row(ref_of(ANN)))


def test_doubts_name_no_value() -> None:
    assert doubt_of({"given": SAME, "family": SAME, "birth_date": SAME}) is None
    assert doubt_of({"given": CLOSE, "family": SAME, "birth_date": SAME}) == "given_name_not_the_same"
