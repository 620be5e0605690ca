"""Exact factors between units, and nothing converted that is not the same thing. How units are read: test_unit_reading."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_writeback_dagster.rules.fhir.unit_conversion import NotComparableError, convert, factor

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
