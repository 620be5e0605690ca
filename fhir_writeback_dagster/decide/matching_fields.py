"""Two descriptions of a person, compared field by field into *levels*: how alike, as codes and never as values.

Probabilistic matching weighs these levels (:mod:`fhir_writeback_dagster.decide.matching_probabilistic`). A field that one side
lacks has no level and weighs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from fhir_writeback_dagster.rules.demographics import Demographics
from fhir_writeback_dagster.rules.names import Form, forms, jaro_winkler, nicknames, one_slip

#: Columns of the evaluation's files, and the fields that are weighed.
FIELDS: tuple[str, ...] = (
    *("given", "family", "birth_date", "sex"),
    *("line", "city", "postal_code", "state"),
    *("phone", "ssn", "mrn"),
)

SAME, CLOSE, PARTIAL, SWAPPED, DIFFERS = "same", "close", "partial", "swapped", "differs"

_SEXES = {"m": "male", "f": "female", "male": "male", "female": "female", "o": "other", "other": "other"}


@dataclass(frozen=True, slots=True)
class Person:
    """A person's fields, normalised; "" or () is not stated. ``birth_date`` is eight digits, or what digits there are."""

    given: tuple[Form, ...] = ()
    family: tuple[Form, ...] = ()
    birth_date: str = ""
    sex: str = ""
    line: frozenset[str] = frozenset()
    city: tuple[Form, ...] = ()
    postal_code: str = ""
    state: str = ""
    phone: str = ""
    ssn: str = ""
    mrn: str = ""


def person_of(columns: Mapping[str, str]) -> Person:
    """From columns named as in :data:`FIELDS`; others are ignored."""
    say = {name: (columns.get(name) or "").strip() for name in FIELDS}
    return Person(
        given=forms(say["given"]),
        family=forms(say["family"]),
        birth_date=birth_digits(say["birth_date"]),
        sex=_SEXES.get(say["sex"].casefold(), ""),
        line=frozenset(word for form in forms(say["line"]) for word in form),
        city=forms(say["city"]),
        postal_code=_plain(say["postal_code"]),
        state=_plain(say["state"]),
        phone=_number(say["phone"])[-10:],
        ssn=_number(say["ssn"]),
        mrn=_plain(say["mrn"]),
    )


def persons_of(who: Demographics) -> list[Person]:
    """One person for each name of a chart or row: the most alike of them counts."""
    names = [(family, given) for family in who.families or ("",) for given in who.givens or ("",)]
    return [person_of({"family": f, "given": g, "birth_date": who.birth_date, "sex": who.sex}) for f, g in names]


def birth_digits(text: str) -> str:
    """``1980-02-01``, ``1980/2/1``, ``19800201`` and ``1980-02-01T…`` as ``19800201``; other digits as they stand."""
    parts = re.match(r"(\d{4})\D(\d{1,2})\D(\d{1,2})(?!\d)", text)
    return f"{parts[1]}{int(parts[2]):02d}{int(parts[3]):02d}" if parts else _number(text)


def compare(one: Person, other: Person) -> dict[str, str]:
    """The level of each field that both state."""
    levels = _names(one, other)
    levels["birth_date"] = _birth(one.birth_date, other.birth_date)
    levels["sex"] = _equal(one.sex, other.sex)
    levels["line"] = _line(one.line, other.line)
    levels["city"] = _name(one.city, other.city, with_nicknames=False)
    levels["postal_code"] = _code(one.postal_code, other.postal_code)
    levels["state"] = _code(one.state, other.state)
    levels["phone"] = _code(one.phone, other.phone)
    levels["ssn"] = _code(one.ssn, other.ssn)
    levels["mrn"] = _code(one.mrn, other.mrn)
    return {name: level for name, level in levels.items() if level}


def _names(one: Person, other: Person) -> dict[str, str]:
    given = _name(one.given, other.given, with_nicknames=True)
    family = _name(one.family, other.family, with_nicknames=False)
    if DIFFERS in (given, family) and SAME not in (given, family):
        as_family = _name(one.given, other.family, with_nicknames=False)
        as_given = _name(one.family, other.given, with_nicknames=False)
        # One name crossed and the other missing is a swap too: the source put a name where the other one goes.
        if SAME in (as_family, as_given) and DIFFERS not in (as_family, as_given):
            given, family = (SWAPPED if level == SAME else level for level in (as_given, as_family))
    return {"given": given, "family": family}


def _name(one: tuple[Form, ...], other: tuple[Form, ...], *, with_nicknames: bool) -> str:
    if not one or not other:
        return ""
    best = DIFFERS
    for a in one:
        for b in other:
            joined = "".join(a), "".join(b)
            if joined[0] == joined[1] or (with_nicknames and b[0] in nicknames(a[0])):
                return SAME
            if set(a) <= set(b) or set(b) <= set(a) or _alike(*joined) or (with_nicknames and _initial(a[0], b[0])):
                best = CLOSE
    return best


def _alike(a: str, b: str) -> bool:
    # A slip at the first letter is rare; looking for it with Jaro and Winkler would cost most of the time of a match.
    return (min(len(a), len(b)) > 3 and one_slip(a, b)) or (a[0] == b[0] and jaro_winkler(a, b) >= 0.88)


def _initial(a: str, b: str) -> bool:
    return (len(a) == 1 or len(b) == 1) and a[0] == b[0]


def _birth(a: str, b: str) -> str:
    if not a or not b:
        return ""
    if a == b:
        return SAME
    if a[:4] == b[:4]:
        exchanged = a[4:6] == b[6:8] and a[6:8] == b[4:6]
        return CLOSE if len(a) == len(b) and (exchanged or one_slip(a, b)) else PARTIAL
    # Another year is never CLOSE, however alike: a father and a son may share all the rest.
    return PARTIAL if len(a) == len(b) and (a[4:] == b[4:] or one_slip(a, b)) else DIFFERS


def _line(a: frozenset[str], b: frozenset[str]) -> str:
    if not a or not b:
        return ""
    if a == b:
        return SAME
    small, large = sorted((a, b), key=len)
    hits = sum(1 for word in small if word in large or any(one_slip(word, w) for w in large if len(word) > 3))
    share = hits / len(small)
    return CLOSE if share >= 0.6 else PARTIAL if hits else DIFFERS


def _code(a: str, b: str) -> str:
    if not a or not b:
        return ""
    return SAME if a == b else CLOSE if one_slip(a, b) else DIFFERS


def _equal(a: str, b: str) -> str:
    return "" if not a or not b else SAME if a == b else DIFFERS


def _plain(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


def _number(text: str) -> str:
    return "".join(c for c in text if c.isdigit())


def is_date(digits: str) -> bool:
    """Eight digits that are a day of the calendar; what is none is no ground for a match."""
    try:
        date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return False
    return len(digits) == 8
