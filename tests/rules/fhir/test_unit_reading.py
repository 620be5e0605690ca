"""Units as people write them: what is certain is read, what is not is refused with its reason."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_writeback_dagster.rules.fhir.code_systems import LOINC, code_of
from fhir_writeback_dagster.rules.fhir.loinc import loinc_terms, measure_different_things, names_another
from fhir_writeback_dagster.rules.fhir.ucum import is_ucum, parse
from fhir_writeback_dagster.rules.fhir.unit_reading import UnreadableUnit, common_codes, nobody_means, read_unit


def reading(text: str, loinc: str | None = None) -> str:
    """The code, with the factor of the number where there is one; or the reason."""
    term = loinc_terms()[loinc] if loinc else None
    try:
        read = read_unit(text, term.units, term.valence) if term else read_unit(text)
    except UnreadableUnit as error:
        return error.reason
    return read.code if read.scale == 1 else f"{read.scale} {read.code}"


def test_every_common_code_is_taken_and_means_what_it_says() -> None:
    assert len(common_codes()) > 1400
    changed = {code: reading(code) for code in common_codes() if reading(code) != code}
    # Farad, coulomb, gauss and mega-seconds stand in the lists of UCUM and in no result.
    assert changed == {"F": "[degF]", "C": "Cel", "G": "g", "Ms": "ms"}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("mcg/L", "ug/L"), ("IU/mL", "[IU]/mL"), ("mIU/mL", "m[IU]/mL"), ("µIU/mL", "u[IU]/mL"), ("copies/mL", "{copies}/mL"),
        ("cp/mL", "{copies}/mL"), ("K/uL", "10*3/uL"), ("K/cumm", "10*3/uL"), ("K/mm3", "10*3/uL"), ("K/mcL", "10*3/uL"),
        ("Thousand/uL", "10*3/uL"), ("Million/uL", "10*6/uL"), ("M/uL", "10*6/uL"), ("10^3/µL", "10*3/uL"),
        ("10^3/μL", "10*3/uL"),
        ("10³/µL", "10*3/uL"), ("x10(3)/uL", "10*3/uL"), ("10x3/uL", "10*3/uL"), ("X10*3/uL", "10*3/uL"), ("x10E9/L", "10*9/L"),
        ("10e9/L", "10*9/L"), ("giga/L", "10*9/L"), ("T/L", "10*12/L"), ("cells/mcL", "{cells}/uL"), ("/cumm", "/uL"),
        ("INR", "{INR}"), ("ratio", "{ratio}"), ("mEq/L", "meq/L"), ("mOsm/kg", "mosm/kg"), ("gm/dL", "g/dL"), ("mg%", "mg/dL"),
        ("units/L", "U/L"), ("kIU/L", "k[IU]/L"), ("mmHg", "mm[Hg]"), ("mm Hg", "mm[Hg]"), ("℃", "Cel"), ("ºC", "Cel"),
        ("Deg C", "Cel"), ("lbs.", "[lb_av]"), ("fl oz", "[foz_us]"), ("mm/hr", "mm/h"), ("mm/1h", "mm/h"), ("sec", "s"),
        ("ng/mL FEU", "ng/mL{FEU}"), ("mg/g creat", "mg/g{creat}"), ("mg/gCr", "mg/g{creat}"), ("nmol/L BCE", "nmol/L{BCE}"),
        ("mg/24h", "mg/(24.h)"), ("mL/min/1.73 m^2", "mL/min/{1.73_m2}"), ("bpm", "/min"), ("beats/minute", "/min"),
    ],
)  # fmt: skip
def test_laboratory_words(text: str, code: str) -> None:
    assert reading(text) == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("MG/DL", "mg/dL"),
        ("Mg/L", "mg/L"),
        ("Pg", "pg"),
        ("PG", "pg"),
        ("MMOL/L", "mmol/L"),
        ("Fl", "fL"),
        ("MIU/ML", "m[IU]/mL"),
    ],
)
def test_capitals_that_leave_one_reading(text: str, code: str) -> None:
    assert reading(text) == code


@pytest.mark.parametrize("text", ["109/L", "103/uL", "oz", "Cal", "G/L", "MIU/mL", "pt", "ug/24.h", "258813002"])
def test_what_may_mean_several_things_is_ambiguous(text: str) -> None:
    assert reading(text) == "ambiguous_unit"


@pytest.mark.parametrize("text", ["", " ", "furlongs", "ea", "M", "D", "1e3", "kg**2", "m٢", "{", "mg/", "(kg"])
def test_what_is_no_unit(text: str) -> None:
    assert reading(text) == "unknown_unit"


@pytest.mark.parametrize(
    ("loinc", "text", "code"),
    [
        ("6690-2", "109/L", "10*9/L"), ("6690-2", "103/uL", "10*3/uL"), ("6690-2", "G/L", "10*9/L"), ("718-7", "G/L", "g/L"),
        ("785-6", "Pg", "pg"), ("29463-7", "oz", "[oz_av]"), ("8310-5", "F", "[degF]"), ("8310-5", "C", "Cel"),
        ("8302-2", "M", "m"), ("5902-2", "S", "s"), ("33914-3", "mL/min/1.73", "mL/min/{1.73_m2}"),
        ("3016-3", "MIU/L", "m[IU]/L"),
    ],
)  # fmt: skip
def test_what_a_result_is_expected_in_decides_between_readings(loinc: str, text: str, code: str) -> None:
    assert reading(text, loinc) == code


@pytest.mark.parametrize(
    ("loinc", "text"),
    [
        ("2345-7", "mmol/L"),  # a mass concentration by its property
        ("6690-2", "%"),
        ("29463-7", "cm"),
        ("1988-5", "ng/L"),  # a millionth of mg/L
        ("29463-7", "Mg"),
        ("8867-4", "mm[Hg]"),
    ],
)
def test_a_unit_that_the_result_cannot_come_in_is_unexpected(loinc: str, text: str) -> None:
    assert reading(text, loinc) == "unit_unexpected"


def test_equivalents_become_moles_by_the_valence_and_never_without() -> None:
    assert reading("mEq/L", "2823-3") == "mmol/L"
    assert read_unit("mEq/L", ("mmol/L",), 2).scale == Fraction(1, 2)
    assert reading("mEq/L", "2000-8") == "1/2 mmol/L"
    assert reading("mEq/L", "14879-1") == "unit_unexpected"  # a phosphate's charge depends on the pH
    assert reading("mEq/L") == "meq/L"


def test_every_term_is_a_loinc_code_with_units_that_agree_with_one_another() -> None:
    for term in loinc_terms().values():
        assert code_of(LOINC, term.code) == term.code
        assert all(is_ucum(unit) and reading(unit, term.code) == unit for unit in term.units), term
        if term.valence:
            assert "mol" in dict(parse(term.units[0]).dimension), term


@pytest.mark.parametrize("code", ["K/mm3", "Mg/L", "109/L", "mL/min/1.73", "MU/L", "pt", "G/L"])
def test_ucum_that_nobody_means(code: str) -> None:
    assert is_ucum(code)
    assert nobody_means(code)


@pytest.mark.parametrize("code", ["mg/dL", "10*9/L", "mg/(24.h)", "/100{WBC}", "MBq", "10.L/min", "furlongs", "mm[Hg]"])
def test_ucum_that_people_mean(code: str) -> None:
    assert not nobody_means(code)


def test_a_display_of_another_term_contradicts() -> None:
    assert names_another("2823-3", "Sodium [Moles/volume] in  serum or plasma")
    assert not names_another("2823-3", "Potassium [Moles/volume] in Serum or Plasma")
    assert not names_another("2823-3", "Kalium")


def test_codings_of_different_things_contradict_and_of_one_thing_do_not() -> None:
    assert measure_different_things(frozenset({"2823-3", "2951-2"}))
    assert measure_different_things(frozenset({"8867-4", "29463-7"}))
    assert not measure_different_things(frozenset({"2708-6", "59408-5"}))
    assert not measure_different_things(frozenset({"8310-5", "8331-1"}))
    assert not measure_different_things(frozenset({"2823-3", "99999-5"}))


@given(st.text(max_size=80))
def test_any_text_is_ucum_or_refused(text: str) -> None:
    try:
        read = read_unit(text)
    except UnreadableUnit:
        return
    assert is_ucum(read.code)
    assert read.repaired == (read.code != text)


@given(
    st.sampled_from(sorted(loinc_terms())),
    st.one_of(st.sampled_from(sorted(common_codes())), st.text("mMuKgGdDlL/10*^3xEIU% ", max_size=9)),
)
def test_a_reading_always_fits_what_is_expected(loinc: str, text: str) -> None:
    term = loinc_terms()[loinc]
    try:
        read = read_unit(text, term.units, term.valence)
    except UnreadableUnit:
        return
    assert parse(read.code).dimension in {parse(unit).dimension for unit in term.units}
