"""Demographic matching without a database: what is weighed, and whom a probability alone must never match."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_writeback_dagster.decide.matching_fields import CLOSE, DIFFERS, PARTIAL, SAME, SWAPPED, compare, person_of
from fhir_writeback_dagster.decide.matching_probabilistic import WEIGHTS, Index, Thresholds, Verdict, block_keys, decide, doubt_of
from fhir_writeback_dagster.rules.names import forms, jaro_winkler, nicknames, one_slip
from fhir_writeback_dagster.rules.phonetic import sound

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


def find(row: dict[str, str], **chart: dict[str, str]) -> Verdict:
    index = Index({name: person_of(columns) for name, columns in (others() | chart).items()})
    return decide(index.candidates(person_of(row)), Thresholds())


def seen(verdict: Verdict) -> tuple[str, str | None, list[str]]:
    return verdict.outcome, verdict.reason, [c.patient_id for c in verdict.candidates]


def test_one_person_in_all_fields_is_matched() -> None:
    assert seen(find(ANN, ann=ANN)) == ("auto", None, ["ann"])


def test_names_and_birth_date_alone_are_enough_in_a_small_chart() -> None:
    row = {name: ANN[name] for name in ("given", "family", "birth_date")}
    assert seen(find(row, ann=ANN)) == ("auto", None, ["ann"])


def test_and_not_in_a_large_one() -> None:
    row = person_of({name: ANN[name] for name in ("given", "family", "birth_date")})
    model = replace(Index({"ann": person_of(ANN)}).model, size=10_000_000, frequencies={})
    assert decide([model.score(row, person_of(ANN), "ann")], Thresholds()).outcome == "review"


def test_nobody_is_found_for_a_stranger() -> None:
    stranger = {"given": "Olaf", "family": "Nobody", "birth_date": "2001-01-01", "city": "Oslo"}
    assert seen(find(stranger, ann=ANN)) == ("none", "patient_unknown", [])


@pytest.mark.parametrize(
    "change",
    [
        {"given": "Marta Sofia"},
        {"family": "ZELENKA"},
        {"family": "Zélenka"},
        {"family": "Zelenca"},  # with the address
        {"birth_date": "19800201"},
        {"birth_date": "1980-01-02"},  # day and month exchanged, with the address
        {"birth_date": "1980-02-10"},
        {"given": "Zelenka", "family": "Marta"},
        {"phone": "", "line": "", "city": ""},
        {"line": "12 Rosewood Ave.", "city": "Sprngfield"},
        {"line": "99 Elsewhere Road", "city": "Boston", "postal_code": "02101", "state": "MA", "phone": "6175550000"},
    ],
)
def test_slips_moves_and_swaps_of_one_field_are_bridged_by_a_number(change: dict[str, str]) -> None:
    assert seen(find(ANN | change, ann=ANN))[2] == ["ann"]
    assert find(ANN | change, ann=ANN).outcome == "auto"


@pytest.mark.parametrize(
    ("chart", "row"),
    [
        ({"given": "Robert"}, {"given": "Bob"}),
        ({"given": "Margarete"}, {"given": "Gretchen"}),
        ({"given": "José"}, {"given": "Jose"}),
        ({"family": "Müller"}, {"family": "Mueller"}),
        ({"family": "Nguyễn"}, {"family": "NGUYEN"}),
        ({"family": "Иванова", "given": "Ольга"}, {"family": "ИВАНОВА", "given": "ольга"}),
    ],
)
def test_nicknames_and_names_beyond_ascii(chart: dict[str, str], row: dict[str, str]) -> None:
    assert seen(find(NO_NUMBERS | row, ann=NO_NUMBERS | chart)) == ("auto", None, ["ann"])


class TestNeverWithoutAPerson:
    """Everything agrees that a household shares, and the probability is next to one."""

    @pytest.mark.parametrize("given", ["Maria", "Martha", "Berta", "Jonas", "M.", ""])
    def test_a_twin_who_is_not_in_the_chart(self, given: str) -> None:
        verdict = find(NO_NUMBERS | {"given": given}, ann=NO_NUMBERS)
        assert (verdict.outcome, verdict.candidates[0].patient_id) == ("review", "ann")

    def test_both_twins_in_the_chart(self) -> None:
        twin = NO_NUMBERS | {"given": "Maria"}
        assert seen(find(NO_NUMBERS, ann=NO_NUMBERS, twin=twin))[:2] == ("review", "several_candidates")

    def test_a_twin_with_the_neighbour_s_number(self) -> None:
        verdict = find(ANN | {"given": "Maria", "mrn": "A101", "ssn": "123-45-6798"}, ann=ANN)
        assert verdict.outcome == "review"

    @pytest.mark.parametrize("birth_date", ["2010-02-01", "1990-02-01", "1908-02-01", "1980-07-23"])
    def test_a_child_of_the_same_name_in_the_same_house(self, birth_date: str) -> None:
        assert find(NO_NUMBERS | {"birth_date": birth_date}, ann=NO_NUMBERS).outcome == "review"

    @pytest.mark.parametrize("given", ["Maria", "M", ""])
    def test_a_twin_who_bears_a_parent_s_social_security_number_too(self, given: str) -> None:
        assert find(ANN | {"given": given, "mrn": ""}, ann=ANN).outcome == "review"

    def test_a_child_with_the_parent_s_social_security_number(self) -> None:
        assert find(ANN | {"birth_date": "2010-02-01", "mrn": ""}, ann=ANN).outcome == "review"

    @pytest.mark.parametrize("mrn", ["A010", "A101", "A1000"])
    def test_a_number_with_a_slip(self, mrn: str) -> None:
        assert find(NO_NUMBERS | {"mrn": mrn}, ann=ANN).outcome == "review"

    def test_a_number_whose_digits_are_exchanged_to_somebody_else_s(self) -> None:
        verdict = find(NO_NUMBERS | {"mrn": "A010"}, ann=ANN, other=others()["o7"] | {"mrn": "A010"})
        assert verdict.outcome == "review"
        assert verdict.candidates[0].patient_id == "ann"

    def test_another_sex(self) -> None:
        assert find(NO_NUMBERS | {"sex": "M"}, ann=NO_NUMBERS).reason == "contradiction"

    def test_a_number_and_nothing_else(self) -> None:
        verdict = find({"ssn": ANN["ssn"]}, ann=ANN)
        assert verdict.outcome == "review"

    def test_two_records_of_one_person(self) -> None:
        assert seen(find(NO_NUMBERS, ann=NO_NUMBERS, again=NO_NUMBERS))[:2] == ("review", "several_candidates")

    def test_the_first_of_january_and_a_common_name(self) -> None:
        common = {
            f"c{n}": {"given": "Maria", "family": "Garcia", "birth_date": f"19{50 + n % 40}-01-01", "city": f"Town{n}"}
            for n in range(300)
        }
        row = {"given": "Maria", "family": "Garcia", "birth_date": "1960-01-01"}
        assert find(row, **common).outcome != "auto"


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
        ({"phone": "(217) 555-0142"}, {"phone": "+1 217 5550142"}, "phone", SAME),
        ({"ssn": "123-45-6789"}, {"ssn": "123456798"}, "ssn", CLOSE),
        ({"sex": "F"}, {"sex": "female"}, "sex", SAME),
    ],
)
def test_levels(one: dict[str, str], other: dict[str, str], field: str, level: str) -> None:
    assert compare(person_of(one), person_of(other))[field] == level


def test_what_one_side_lacks_weighs_nothing() -> None:
    assert compare(person_of({"given": "Ann", "sex": "unknown"}), person_of({"family": "Lee", "sex": "F"})) == {}


def test_a_common_name_weighs_less_than_a_rare_one() -> None:
    chart = {f"p{n}": person_of({"family": "Smith" if n < 90 else f"Rare{n}"}) for n in range(100)}
    model = Index(chart).model
    smith, rare = model.score(chart["p0"], chart["p0"], "p0"), model.score(chart["p95"], chart["p95"], "p95")
    assert rare.bits - smith.bits > 3


def test_weights_are_probabilities_and_agreement_weighs_more() -> None:
    for levels in WEIGHTS.values():
        assert math.isclose(sum(m for m, _ in levels.values()), 1, abs_tol=0.01)
        assert all(0 < u <= 1 for _, u in levels.values())
        assert levels[SAME][0] / levels[SAME][1] > 1 > levels[DIFFERS][0] / levels[DIFFERS][1]


def test_two_near_candidates_go_to_a_person_although_one_is_nearer() -> None:
    index = Index({"ann": person_of(ANN)})
    best = index.model.score(person_of(ANN), person_of(ANN), "ann")
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


@pytest.mark.parametrize("missing", ["given", "family", "birth_date", "ssn", "mrn", "phone", "line", "postal_code"])
def test_two_records_of_one_person_meet_in_a_block_whatever_field_is_wrong(missing: str) -> None:
    wrong = ANN | {missing: "19111111" if missing == "birth_date" else "qqqq 9"}
    assert block_keys(person_of(ANN)) & block_keys(person_of(wrong))


def test_doubts_name_no_value() -> None:
    assert doubt_of({"given": SAME, "family": SAME, "birth_date": SAME}) is None
    assert doubt_of({"given": CLOSE, "family": SAME, "birth_date": SAME}) == "given_name_not_the_same"
