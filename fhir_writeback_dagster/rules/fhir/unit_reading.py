"""What a source writes as a unit → the UCUM code that it means, or the reason why nobody can say.

A code of UCUM's and HL7's lists of common codes is taken at its word. Laboratory words (``mcg/L``, ``K/uL``, ``10^3/µL``,
``gm%``) are read as what everybody means by them. Other UCUM codes are taken at their word unless nobody means what they say:
kelvin per volume, megagrams, or a bare integer that was an exponent (``109/L``). What the result is expected in decides between
readings (``oz``, ``Pg``, ``109/L``), and refuses what measures something else or is a thousandfold off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from importlib.resources import files

from fhir_writeback_dagster.rules.fhir.r4 import definitions
from fhir_writeback_dagster.rules.fhir.ucum import Unit, UnknownUnitError, parse
from fhir_writeback_dagster.rules.fhir.unit_words import COUNTS, PARTS, SUFFIXES, WHOLE

#: A usual unit this many times larger or smaller is another unit: mg read as g, or per litre read as per millilitre.
FAR = 1000


class UnreadableUnit(ValueError):
    """No reading of a unit; ``reason`` is a code for people and quarantine:

    ``unknown_unit``: neither UCUM nor a known word; ``ambiguous_unit``: several readings, or one that nobody means;
    ``unit_unexpected``: of another dimension than the result, or a thousandfold away from every usual unit.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class UnitReading:
    """A UCUM code; ``repaired`` where the source wrote something else. The number is to be multiplied with ``scale``."""

    code: str
    repaired: bool = False
    scale: Fraction = Fraction(1)


@lru_cache(maxsize=8192)
def read_unit(text: str, usual: tuple[str, ...] = (), valence: int | None = None) -> UnitReading:
    """The unit that ``text`` means.

    >>> read_unit("K/uL"), read_unit("mg/dL").repaired, read_unit("109/L", ("10*9/L",)).code
    (UnitReading(code='10*3/uL', repaired=True, scale=Fraction(1, 1)), False, '10*9/L')

    :param usual: UCUM codes that the result usually comes in; empty where nothing is known of it.
    :param valence: of the ion that is measured, by which ``meq`` becomes ``mmol``; None where it is unknown.
    :raises UnreadableUnit: see there.
    """
    plain = _plain(text)
    if not plain:
        raise UnreadableUnit("unknown_unit")
    if plain in usual:
        return UnitReading(plain, plain != text)
    if usual and (matching := _squeezed(usual).get(_squeeze(plain))):
        return UnitReading(matching, repaired=True)
    reasons = []
    for attempt in (_at_its_word, _by_words, _as_ucum):
        try:
            code = attempt(plain, usual)
        except UnreadableUnit as error:
            reasons.append(error.reason)
            continue
        if code is not None:
            return _expected(code, text, usual, valence)
    raise UnreadableUnit("ambiguous_unit" if "ambiguous_unit" in reasons else "unknown_unit")


@lru_cache(maxsize=8192)
def nobody_means(code: str) -> bool:
    """Whether a valid UCUM code says something that no clinical result means, such as kelvin per microlitre."""
    if code in common_codes():
        return False
    try:
        return _doubtful(parse(code), code)
    except UnknownUnitError:
        return False


@cache
def common_codes() -> frozenset[str]:
    """Codes that are taken at their word: HL7's value set of common units, and the UCUM organisation's table of example units."""
    more = (files(__package__) / "ucum_common.txt").read_text(encoding="utf-8").split("\n")
    return frozenset((*definitions().ucum_examples, *filter(None, more)))


#: Common by their list and never meant: farad and coulomb are temperatures, mega-seconds are milliseconds, gauss is gram.
_NOT_AT_ITS_WORD: Mapping[str, str] = {"F": "[degF]", "C": "Cel", "Ms": "ms", "G": "g"}

_CHARACTERS = str.maketrans(
    {"µ": "u", "μ": "u", "º": "°", "℃": "°C", "℉": "°F", "×": "x", "·": ".", "⁄": "/", "∕": "/", "\u00a0": " ", "\u2009": " "}
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]+")


def _plain(text: str) -> str:
    """``text`` without what only looks different: blanks, both mu signs, superscript digits."""
    text = text.translate(_CHARACTERS)
    text = _SUPERSCRIPT.sub(lambda match: "^" + match.group().translate(_SUPERSCRIPTS), text)
    return " ".join(text.split())


def _squeeze(text: str) -> str:
    """What stays of a unit where case and the signs of a power were lost: ``10*9/L``, ``10^9/l`` and ``109/L`` are one."""
    return re.sub(r"[\s*^x×()\[\]{}_]|(?<=10)[eE](?=\d)", "", text).casefold()


@cache
def _squeezed(usual: tuple[str, ...]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for code in reversed(usual):
        found[_squeeze(code)] = code
    return found


def _expected(code: str, text: str, usual: tuple[str, ...], valence: int | None) -> UnitReading:
    """The reading, if the result can come in this unit.

    :raises UnreadableUnit: ``unit_unexpected``.
    """
    read = UnitReading(code, code != text)
    if not usual or code in usual:
        return read
    unit = parse(code)
    alike = [one for one in map(parse, usual) if one.dimension == unit.dimension]
    if alike:
        if all(max(unit.factor / one.factor, one.factor / unit.factor) >= FAR for one in alike):
            raise UnreadableUnit("unit_unexpected")
        return read
    if valence is not None and "eq" in dict(unit.dimension):
        moles = re.sub(r"(?<![A-Za-z\[])([mun]?)eq(?![A-Za-z\]])", r"\1mol", code)
        return UnitReading(_expected(moles, text, usual, None).code, repaired=True, scale=Fraction(1, valence))
    raise UnreadableUnit("unit_unexpected")


def _at_its_word(text: str, usual: tuple[str, ...]) -> str | None:
    if text in _NOT_AT_ITS_WORD:
        return None if usual and not _fits(_NOT_AT_ITS_WORD[text], usual) else _NOT_AT_ITS_WORD[text]
    if text in common_codes() and (not usual or _fits(text, usual) or "eq" in text):
        return text
    return None


def _fits(code: str, usual: tuple[str, ...]) -> bool:
    return any(parse(code).dimension == parse(one).dimension for one in usual)


def _as_ucum(text: str, _usual: tuple[str, ...] = ()) -> str | None:
    try:
        unit = parse(text)
    except UnknownUnitError:
        return None
    if text not in common_codes() and _doubtful(unit, text):
        raise UnreadableUnit("ambiguous_unit")
    return text


#: Atoms that a laboratory writes with a small prefix only, and those that stand for something else where they are per volume.
_SMALL = frozenset({"g", "s", "L", "l", "mol", "eq", "osm", "m", "U", "[IU]", "[iU]", "t", "m[Hg]"})
_PHYSICS = frozenset({"K", "G", "T", "H", "S", "F", "C", "P", "B", "R", "b", "st", "St"})
_LARGE = frozenset({"M", "G", "T", "P", "E", "Z", "Y"})
#: Integers that somebody means: a span of time in brackets, per hundred cells.
_MEANT = re.compile(r"\(\d+\.(?:h|d|min|wk)\)|/100(?=\{|$)")


def _doubtful(unit: Unit, code: str) -> bool:
    compound = len(unit.atoms) > 1
    for prefix, atom in unit.atoms:
        if atom in _SMALL and (prefix in _LARGE or (atom == "t" and prefix)):
            return True
        if atom in _PHYSICS and compound:
            return True
    return any(number != 1 for number in unit.numbers) and not _MEANT.search(code)


_VOLUMES = frozenset({"L", "dL", "mL", "uL", "nL"})
_COUNT = re.compile(r"x?\s?10\s?(?:\*\*|[*^ex(]|\s)\s?(\d{1,2})\)?", re.IGNORECASE)

_SUFFIX = re.compile(rf"(.*?[a-zL])(?:\s|\{{|(?=Cr$))({'|'.join(map(re.escape, SUFFIXES))})\}}?", re.IGNORECASE)


def _by_words(text: str, usual: tuple[str, ...]) -> str | None:
    if text.casefold() in {"oz", "cal"}:
        return _one_of({"oz": ("[oz_av]", "[foz_us]"), "cal": ("cal", "[Cal]")}[text.casefold()], usual)
    whole = WHOLE.get(text.casefold().rstrip(".")) or (PARTS.get(text.casefold().rstrip(".")) if len(text) > 1 else None)
    if whole is not None:
        _not_mega(text, whole)
        return whole
    if suffix := _SUFFIX.fullmatch(text):
        plain = _by_words(suffix[1], ()) or _as_ucum(suffix[1])
        return None if plain is None else plain + SUFFIXES[suffix[2].casefold()]
    return _composed(text, usual)


def _one_of(readings: tuple[str, ...], usual: tuple[str, ...]) -> str:
    fitting = [code for code in readings if usual and _fits(code, usual)]
    if len(fitting) != 1:
        raise UnreadableUnit("ambiguous_unit")
    return fitting[0]


def _composed(text: str, usual: tuple[str, ...]) -> str | None:
    """A unit whose sides are all words: ``mcg/mL``, ``Thousand/cumm``, ``x10^3/uL``."""
    first, *rest = (part.strip().rstrip(".") for part in text.split("/"))
    if not rest:
        count = _COUNT.fullmatch(first)
        return f"10*{int(count[1])}" if count else None
    below = [PARTS.get(part.casefold()) for part in rest]
    if any(part is None for part in below):
        return None
    if text == "G/L":
        return _one_of(("10*9/L", "g/L"), usual)  # giga in Europe, a gram where everything is in capitals
    above = _numerator(first, counts=len(below) == 1 and below[0] in _VOLUMES)
    if above is None:
        return None
    _not_mega(first if not text.isupper() else first.casefold(), above)
    return "/".join([above, *(part or "" for part in below)])


def _numerator(word: str, *, counts: bool) -> str | None:
    """What stands before the ``/``; ``counts``: a volume follows, so that ``K`` is a thousand."""
    count = _COUNT.fullmatch(word)
    if count:
        return f"10*{int(count[1])}"
    folded = word.casefold()
    if counts and folded in COUNTS and folded not in PARTS:
        return COUNTS[folded]
    return PARTS.get(folded) if word else ""


def _not_mega(word: str, code: str) -> None:
    """Refuse ``MIU`` and ``MU``, which may be millions; mega-grams and the like nobody means.

    :raises UnreadableUnit: ``ambiguous_unit``.
    """
    if word.startswith("M") and code in {"mU", "m[IU]"}:
        raise UnreadableUnit("ambiguous_unit")
