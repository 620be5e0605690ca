"""UCUM units: which codes exist, what sources write instead, and exact factors between units of one dimension.

A small reader of UCUM's grammar (ucum.org, sections 2 and 4) over the atoms that clinical data uses: libraries cost 61 to 801
µs a conversion (measured), a factor looked up by pair costs nothing. Amounts of substance, arbitrary units and
anything with an annotation (``{score}``) convert to nothing else, so a mass never becomes moles without its molar mass.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import cache

Dimension = tuple[tuple[str, int], ...]

_PREFIXES = {
    "Y": 24, "Z": 21, "E": 18, "P": 15, "T": 12, "G": 9, "M": 6, "k": 3, "h": 2, "da": 1,
    "d": -1, "c": -2, "m": -3, "u": -6, "n": -9, "p": -12, "f": -15, "a": -18, "z": -21, "y": -24,
}  # fmt: skip

#: Metric atoms (may take a prefix): factor and definition. A name that stands for itself is a dimension.
_METRIC: dict[str, tuple[str, str]] = {
    "m": ("1", "m"), "g": ("1", "g"), "s": ("1", "s"), "K": ("1", "K"), "A": ("1", "A"), "cd": ("1", "cd"),
    "mol": ("1", "mol"), "eq": ("1", "eq"), "osm": ("1", "osm"), "L": ("0.001", "m3"), "l": ("0.001", "m3"),
    "Hz": ("1", "s-1"), "N": ("1000", "g.m.s-2"), "Pa": ("1000", "g.m-1.s-2"),
    "bar": ("100000000", "g.m-1.s-2"), "J": ("1000", "g.m2.s-2"), "W": ("1000", "g.m2.s-3"), "V": ("1000", "g.m2.s-3.A-1"),
    "Ohm": ("1000", "g.m2.s-3.A-2"), "cal": ("4184", "g.m2.s-2"), "m[Hg]": ("133322000", "g.m-1.s-2"),
    "m[H2O]": ("9806650", "g.m-1.s-2"), "kat": ("1", "mol.s-1"), "U": ("1/60000000", "mol.s-1"), "Bq": ("1", "s-1"),
    "Gy": ("1", "m2.s-2"), "Sv": ("1", "m2.s-2"), "[IU]": ("1", "[IU]"), "[iU]": ("1", "[IU]"),
}  # fmt: skip

_OTHER: dict[str, tuple[str, str]] = {
    "min": ("60", "s"), "h": ("3600", "s"), "d": ("86400", "s"), "wk": ("604800", "s"), "mo": ("2629800", "s"),
    "a": ("31557600", "s"), "10*": ("10", "1"), "10^": ("10", "1"), "%": ("1/100", "1"), "[ppth]": ("1/1000", "1"),
    "[ppm]": ("1/1000000", "1"), "[ppb]": ("1/1000000000", "1"), "[pi]": ("1", "[pi]"), "deg": ("1", "deg"),
    "[in_i]": ("0.0254", "m"), "[ft_i]": ("0.3048", "m"), "[yd_i]": ("0.9144", "m"), "[mi_i]": ("1609.344", "m"),
    "[lb_av]": ("453.59237", "g"), "[oz_av]": ("28.349523125", "g"), "[gr]": ("0.06479891", "g"),
    "[stone_av]": ("6350.29318", "g"), "[foz_us]": ("0.0000295735295625", "m3"), "[cup_us]": ("0.0002365882365", "m3"),
    "[tsp_us]": ("0.00000492892159375", "m3"), "[tbs_us]": ("0.00001478676478125", "m3"), "[drp]": ("0.00000005", "m3"),
    "atm": ("101325000", "g.m-1.s-2"), "[psi]": ("6894757.293168", "g.m-1.s-2"),
    "[HPF]": ("1", "[HPF]"), "[LPF]": ("1", "[LPF]"), "[pH]": ("1", "[pH]"), "[arb'U]": ("1", "[arb'U]"),
    "[CFU]": ("1", "[CFU]"), "[PFU]": ("1", "[PFU]"), "[Lf]": ("1", "[Lf]"), "[EU]": ("1", "[EU]"), "[GPL'U]": ("1", "[GPL'U]"),
    "[MPL'U]": ("1", "[MPL'U]"), "[APL'U]": ("1", "[APL'U]"), "[diop]": ("1", "m-1"), "[MET]": ("1", "[MET]"),
    "[Ch]": ("1", "[Ch]"), "Cel": ("1", "temperature"), "[degF]": ("1", "temperature"),
}  # fmt: skip

_SPECIAL = {"Cel", "[degF]"}

#: What sources write, in lower case → UCUM. Only words with one meaning in clinical data: `m`, `g` or `pt` are not here.
ALIASES = {
    "lb": "[lb_av]", "lbs": "[lb_av]", "pound": "[lb_av]", "pounds": "[lb_av]", "oz": "[oz_av]", "ounces": "[oz_av]",
    "in": "[in_i]", "inch": "[in_i]", "inches": "[in_i]", "ft": "[ft_i]", "feet": "[ft_i]", "f": "[degF]", "°f": "[degF]",
    "degf": "[degF]", "deg f": "[degF]", "fahrenheit": "[degF]", "c": "Cel", "°c": "Cel", "degc": "Cel", "deg c": "Cel",
    "cel": "Cel", "celsius": "Cel", "bpm": "/min", "beats/min": "/min", "beats/minute": "/min", "breaths/min": "/min",
    "breaths/minute": "/min", "per minute": "/min", "1/min": "/min", "mmhg": "mm[Hg]", "mm hg": "mm[Hg]", "mm[hg]": "mm[Hg]",
    "kg": "kg", "cm": "cm", "kg/m²": "kg/m2", "kg/m^2": "kg/m2", "kg/sqm": "kg/m2", "percent": "%", "pct": "%", "mcg": "ug",
    "µg": "ug", "μg": "ug", "cc": "mL", "ml": "mL", "mg/dl": "mg/dL", "g/dl": "g/dL", "gm/dl": "g/dL", "mcg/dl": "ug/dL",
    "mcg/ml": "ug/mL", "ug/dl": "ug/dL", "ug/l": "ug/L", "µg/l": "ug/L", "ng/ml": "ng/mL", "pg/ml": "pg/mL", "ng/dl": "ng/dL",
    "mmol/l": "mmol/L", "umol/l": "umol/L", "µmol/l": "umol/L", "meq/l": "meq/L", "mosm/kg": "mosm/kg", "u/l": "U/L",
    "iu/l": "[IU]/L", "miu/l": "m[IU]/L", "miu/ml": "m[IU]/mL", "uiu/ml": "u[IU]/mL", "k/ul": "10*3/uL",
    "x10^3/ul": "10*3/uL", "10^3/ul": "10*3/uL", "10e3/ul": "10*3/uL", "x10e3/ul": "10*3/uL", "thou/ul": "10*3/uL",
    "10*9/l": "10*9/L", "10^9/l": "10*9/L", "x10^9/l": "10*9/L", "m/ul": "10*6/uL", "x10^6/ul": "10*6/uL", "10^6/ul": "10*6/uL",
    "10e6/ul": "10*6/uL", "x10e6/ul": "10*6/uL", "mil/ul": "10*6/uL", "10*12/l": "10*12/L", "10^12/l": "10*12/L",
    "fl": "fL", "mm/hr": "mm/h", "ml/min": "mL/min", "ml/min/1.73m2": "mL/min/{1.73_m2}", "ml/min/1.73 m2": "mL/min/{1.73_m2}",
    "ml/min/1.73m²": "mL/min/{1.73_m2}", "l/min": "L/min", "score": "{score}", "ratio": "{ratio}", "ph": "[pH]",
    "years": "a", "year": "a", "yrs": "a", "months": "mo", "weeks": "wk", "days": "d", "hours": "h", "hrs": "h", "minutes": "min",
    "seconds": "s", "sec": "s", "hr": "h", "gm": "g",
    "kcal": "kcal", "cm h2o": "cm[H2O]", "cmh2o": "cm[H2O]", "/hpf": "/[HPF]", "/lpf": "/[LPF]",
}  # fmt: skip

_COMPONENT = re.compile(
    r"(?P<open>\()|(?P<annotation>\{[!-z|~]*\})|(?P<power>10[*^](?P<ten>[+-]?[0-9]+)?)"
    r"|(?P<number>[0-9]+)|(?P<atom>(?:[A-Za-z%]|\[[A-Za-z0-9_'*^/-]+\])+)(?P<exponent>[+-]?[0-9]+)?"
)


class UnknownUnitError(ValueError):
    """Not a UCUM code that we know, nor an alias of one."""


class NotComparableError(ValueError):
    """The two units measure different things."""


@cache
def ucum(text: str) -> str:
    """The UCUM code of what a source wrote.

    :raises UnknownUnitError: neither an alias nor a UCUM code.
    """
    alias = ALIASES.get(text.strip().lower())
    if alias:
        return alias
    _read(text)
    return text


@cache
def factor(unit: str, target: str) -> tuple[Fraction, Fraction]:
    """``(a, b)`` so that ``value * a + b`` is in ``target``; both are UCUM codes.

    :raises UnknownUnitError: one of them is not UCUM.
    :raises NotComparableError: different dimensions, or an annotation that differs.
    """
    (scale, dimension), (target_scale, target_dimension) = _read(unit), _read(target)
    if unit == target:
        return Fraction(1), Fraction(0)
    if dimension != target_dimension or "{" in unit + target:
        raise NotComparableError
    if unit in _SPECIAL:
        fahrenheit = unit == "[degF]"
        return (Fraction(5, 9), Fraction(-160, 9)) if fahrenheit else (Fraction(9, 5), Fraction(32))
    return scale / target_scale, Fraction(0)


def convert(value: Decimal, unit: str, target: str, decimals: int, rounding: Callable[[Fraction], int] = round) -> Decimal:
    """``value`` in ``target``, rounded to ``decimals``; unchanged, with its own digits, where the two are the same code.

    :param rounding: to a whole number; half to even where it is left out.
    :raises UnknownUnitError: one of them is not UCUM.
    :raises NotComparableError: different dimensions.
    """
    if unit == target:
        return value
    scale, offset = factor(unit, target)
    exact = Fraction(value) * scale + offset
    shifted = exact * 10**decimals
    return Decimal(rounding(shifted)).scaleb(-decimals)  # Fraction's round is exact and half to even


def _read(text: str) -> tuple[Fraction, Dimension]:
    if not text or len(text) > 60:
        raise UnknownUnitError
    try:
        scale, powers, at = _term(text, 0)
    except (RecursionError, OverflowError):
        raise UnknownUnitError from None
    if at != len(text):
        raise UnknownUnitError
    return scale, tuple(sorted((name, power) for name, power in powers.items() if power))


def _term(text: str, at: int) -> tuple[Fraction, dict[str, int], int]:
    scale, powers = Fraction(1), dict[str, int]()
    sign = 1
    if text[at : at + 1] == "/":
        sign, at = -1, at + 1
    while True:
        part_scale, part_powers, at = _component(text, at)
        scale *= part_scale**sign
        for name, power in part_powers.items():
            powers[name] = powers.get(name, 0) + sign * power
        if text[at : at + 1] not in {".", "/"}:
            return scale, powers, at
        sign, at = (1 if text[at] == "." else -1), at + 1


def _component(text: str, at: int) -> tuple[Fraction, dict[str, int], int]:
    match = _COMPONENT.match(text, at)
    if match is None:
        raise UnknownUnitError
    if match["open"]:
        scale, powers, at = _term(text, match.end())
        if text[at : at + 1] != ")":
            raise UnknownUnitError
        return scale, powers, at + 1
    at = match.end()
    if match["annotation"]:
        return Fraction(1), {}, at
    if match["power"]:
        scale, powers = Fraction(10) ** _exponent(match["ten"]), {}
    elif match["number"]:
        scale, powers = Fraction(int(match["number"])), {}
        if scale == 0:
            raise UnknownUnitError
    else:
        exponent = _exponent(match["exponent"])
        scale, powers = _atom(match["atom"], alone=match.group() == text)
        scale, powers = scale**exponent, {name: power * exponent for name, power in powers.items()}
    if text[at : at + 1] == "{" and (annotation := _COMPONENT.match(text, at)):
        at = annotation.end()
    return scale, powers, at


def _exponent(text: str | None) -> int:
    exponent = int(text) if text else 1
    if not 0 < abs(exponent) <= 24:
        raise UnknownUnitError
    return exponent


def _atom(name: str, *, alone: bool) -> tuple[Fraction, dict[str, int]]:
    if name in _SPECIAL and not alone:
        raise UnknownUnitError  # a temperature with a zero of its own is no factor of anything
    definition = _METRIC.get(name) or _OTHER.get(name)
    shift = 0
    if definition is None:
        for prefix, power in _PREFIXES.items():
            if name.startswith(prefix) and name[len(prefix) :] in _METRIC:
                definition, shift = _METRIC[name[len(prefix) :]], power
                break
        else:
            raise UnknownUnitError
    scale, unit = Fraction(definition[0]) * Fraction(10) ** shift, definition[1]
    powers: dict[str, int] = {}
    for part in unit.split("."):
        base = re.fullmatch(r"(.*?)(-?\d+)?", part) if part != "1" else None
        if base:
            powers[base[1]] = powers.get(base[1], 0) + int(base[2] or 1)
    return scale, powers
