"""Exact factors between units of one dimension, and values converted by them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import cache

from fhir_writeback_dagster.rules.fhir.ucum import parse

_TEMPERATURES: dict[tuple[str, str], tuple[Fraction, Fraction]] = {
    ("[degF]", "Cel"): (Fraction(5, 9), Fraction(-160, 9)),
    ("Cel", "[degF]"): (Fraction(9, 5), Fraction(32)),
}


class NotComparableError(ValueError):
    """The two units measure different things."""


@cache
def factor(unit: str, target: str) -> tuple[Fraction, Fraction]:
    """``(a, b)`` so that ``value * a + b`` is in ``target``; both are UCUM codes.

    :raises UnknownUnitError: one of them is no UCUM code.
    :raises NotComparableError: different dimensions, or an annotation (``{score}``): no factor knows what it stands for.
    """
    this, other = parse(unit), parse(target)
    if unit == target:
        return Fraction(1), Fraction(0)
    if this.dimension != other.dimension or "{" in unit + target:
        raise NotComparableError
    if (unit, target) in _TEMPERATURES:
        return _TEMPERATURES[unit, target]
    if this.dimension == (("temperature", 1),):
        raise NotComparableError
    return this.factor / other.factor, Fraction(0)


def convert(value: Decimal, unit: str, target: str, decimals: int, rounding: Callable[[Fraction], int] = round) -> Decimal:
    """``value`` in ``target``, rounded to ``decimals``; unchanged, with its own digits, where the two are the same code.

    :param rounding: to a whole number; half to even where it is left out.
    :raises UnknownUnitError: one of them is no UCUM code.
    :raises NotComparableError: different dimensions.
    """
    if unit == target:
        return value
    scale, offset = factor(unit, target)
    exact = Fraction(value) * scale + offset
    shifted = exact * 10**decimals
    return Decimal(rounding(shifted)).scaleb(-decimals)  # Fraction's round is exact and half to even
