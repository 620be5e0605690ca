"""Units: UCUM's grammar, aliases with one meaning, exact factors, and nothing converted that is not the same thing."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_writeback_dagster.rules.fhir.unit_conversion import ALIASES, NotComparableError, UnknownUnitError, convert, factor, ucum

MASSES = ["g", "kg", "mg", "ug", "[lb_av]", "[oz_av]", "[gr]"]
NUMBERS = st.decimals(min_value=-10_000, max_value=10_000, places=4)


@pytest.mark.parametrize(
    ("value", "unit", "target", "expected"),
    [
        ("150", "[lb_av]", "kg", "68.04"),
        ("98.6", "[degF]", "Cel", "37.00"),
        ("-40", "Cel", "[degF]", "-40.00"),
        ("70", "[in_i]", "cm", "177.80"),
        ("100", "mg/dL", "g/L", "1.00"),
        ("1", "10*3/uL", "10*9/L", "1.00"),
        ("120", "mm[Hg]", "kPa", "16.00"),
        ("1", "h", "min", "60.00"),
        ("2.5", "[IU]/mL", "m[IU]/mL", "2500.00"),
    ],
)
def test_conversions(value: str, unit: str, target: str, expected: str) -> None:
    assert str(convert(Decimal(value), unit, target, 2)) == expected


def test_halves_go_to_the_even_digit_and_are_exact() -> None:
    assert convert(Decimal("0.0005"), "g", "mg", 0) == Decimal(0)
    assert convert(Decimal("0.0015"), "g", "mg", 0) == Decimal(2)


def test_the_same_unit_keeps_its_digits() -> None:
    assert str(convert(Decimal("72.500"), "kg", "kg", 1)) == "72.500"


@pytest.mark.parametrize(
    ("unit", "target"),
    [("mg/dL", "mmol/L"), ("kg", "cm"), ("{score}", "%"), ("meq/L", "mmol/L"), ("U/L", "[IU]/L"), ("[degF]", "kg"), ("Cel", "K")],
)
def test_different_things_do_not_convert(unit: str, target: str) -> None:
    with pytest.raises(NotComparableError):
        factor(unit, target)


@pytest.mark.parametrize(
    "text", ["", " ", "furlongs", "mg/", "(kg", "kg)", "Cel/m", "pt", "m3m", "10*x", "kg m", "m٢", "/0", "{", "1e3", "kg**2"]
)
def test_what_is_not_ucum(text: str) -> None:
    with pytest.raises(UnknownUnitError):
        ucum(text)


@pytest.mark.parametrize(
    "code", ["mL/min/{1.73_m2}", "/[HPF]", "{copies}/mL", "10*3/uL", "mm[Hg]", "kg/m2", "ng/mL{FEU}", "%", "1"]
)
def test_ucum_codes_stay_as_they_are(code: str) -> None:
    assert ucum(code) == code


@pytest.mark.parametrize(
    ("text", "code"), [("LBS", "[lb_av]"), ("°F", "[degF]"), ("bpm", "/min"), ("mmHg", "mm[Hg]"), (" kg ", "kg")]
)
def test_aliases(text: str, code: str) -> None:
    assert ucum(text) == code


def test_every_alias_leads_to_a_ucum_code() -> None:
    for code in ALIASES.values():
        assert factor(code, code) == (Fraction(1), Fraction(0))


def test_no_alias_says_something_else_than_the_ucum_code_of_its_name() -> None:
    for alias, code in ALIASES.items():
        try:
            scale, _ = factor(alias, code)
        except (UnknownUnitError, NotComparableError):
            continue
        assert scale == 1, alias


@given(NUMBERS, st.sampled_from(MASSES), st.sampled_from(MASSES))
def test_there_and_back_is_the_same(value: Decimal, unit: str, target: str) -> None:
    there, _ = factor(unit, target)
    back, _ = factor(target, unit)
    assert there * back == 1
    assert Fraction(value) * there * back == Fraction(value)


@given(NUMBERS, st.sampled_from(MASSES), st.sampled_from(MASSES), st.integers(0, 6))
def test_rounding_is_off_by_half_a_digit_at_most(value: Decimal, unit: str, target: str, decimals: int) -> None:
    exact = Fraction(value) * factor(unit, target)[0]
    assert abs(Fraction(convert(value, unit, target, decimals)) - exact) <= Fraction(1, 2 * 10**decimals)


@given(NUMBERS, st.sampled_from(MASSES), st.sampled_from(MASSES), st.integers(0, 6))
def test_a_bound_may_be_rounded_to_one_side(value: Decimal, unit: str, target: str, decimals: int) -> None:
    exact = Fraction(value) * factor(unit, target)[0]
    low, high = (Fraction(convert(value, unit, target, decimals, side)) for side in (math.floor, math.ceil))
    assert low <= exact <= high
    assert high - low <= Fraction(1, 10**decimals)


@given(st.text(max_size=80))
def test_any_text_is_a_unit_or_unknown(text: str) -> None:
    try:
        code = ucum(text)
    except UnknownUnitError:
        return
    assert factor(code, code) == (Fraction(1), Fraction(0))
