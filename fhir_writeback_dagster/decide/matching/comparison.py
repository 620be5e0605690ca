"""Two descriptions of a person, compared field by field into *levels*: how alike, as codes and never as values.

Probabilistic matching weighs these levels (:mod:`fhir_writeback_dagster.decide.matching.scoring`). A field that one side
lacks has no level and weighs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fhir_writeback_dagster.rules.people.demographics import Address, Demographics, phone_digits, postal_digits
from fhir_writeback_dagster.rules.people.names import Form, forms, jaro_winkler, nicknames, one_slip

#: The fields that are weighed.
FIELDS: tuple[str, ...] = ("given", "family", "birth_date", "sex", "line", "city", "postal_code", "state", "phone")

SAME, CLOSE, PARTIAL, SWAPPED, DIFFERS = "same", "close", "partial", "swapped", "differs"

Levels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ComparedName:
    given: tuple[Form, ...] = ()
    family: tuple[Form, ...] = ()


@dataclass(frozen=True, slots=True)
class ComparedAddress:
    line: frozenset[str] = frozenset()
    city: tuple[Form, ...] = ()
    postal_code: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class ComparedPerson:
    """:class:`Demographics` made comparable; "" or () is not stated. ``birth_date`` is its digits."""

    names: tuple[ComparedName, ...] = ()
    birth_date: str = ""
    sex: str = ""
    homes: tuple[ComparedAddress, ...] = ()
    phones: tuple[str, ...] = ()


def person_of(who: Demographics) -> ComparedPerson:
    return ComparedPerson(
        tuple(ComparedName(forms(given), forms(family)) for family in who.families or ("",) for given in who.givens or ("",)),
        "".join(c for c in who.birth_date if c.isdigit()),
        who.sex,
        tuple(map(_home, who.addresses)),
        tuple(filter(None, map(phone_digits, who.phones))),
    )


def _home(address: Address) -> ComparedAddress:
    return ComparedAddress(
        frozenset(word for form in forms(address.line) for word in form),
        forms(address.city),
        postal_digits(address.postal_code),
        "".join(c for c in address.state.casefold() if c.isalnum()),
    )


def compare(one: ComparedPerson, other: ComparedPerson, weigh: Callable[[Levels], float]) -> Levels:
    """The level of each field that both state; of several names, addresses or phones the pair that weighs most."""
    names = [_names(a, b) for a in one.names for b in other.names]
    homes = [_homes(a, b) for a in one.homes for b in other.homes]
    phones = [{"phone": _code(a, b)} for a in one.phones for b in other.phones]
    levels = {"birth_date": _birth(one.birth_date, other.birth_date), "sex": _equal(one.sex, other.sex)}
    for pairs in (names, homes, phones):
        if pairs:
            best: Levels = pairs[0] if len(pairs) == 1 else max(pairs, key=weigh)
            levels |= best
    return {name: level for name, level in levels.items() if level}


def _homes(one: ComparedAddress, other: ComparedAddress) -> dict[str, str]:
    return {
        "line": _line(one.line, other.line),
        "city": _name(one.city, other.city, with_nicknames=False),
        "postal_code": _code(one.postal_code, other.postal_code),
        "state": _state(one.state, other.state),
    }


def _names(one: ComparedName, other: ComparedName) -> dict[str, str]:
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
    hits = sum(1 for word in small if word in large or any(one_slip(word, run) for run in large if len(word) > 3))
    share = hits / len(small)
    return CLOSE if share >= 0.6 else PARTIAL if hits else DIFFERS


def _code(a: str, b: str) -> str:
    if not a or not b:
        return ""
    return SAME if a == b else CLOSE if one_slip(a, b) else DIFFERS


def _state(a: str, b: str) -> str:
    # A code and a name (`IL`, `Illinois`) cannot be compared without a table of all countries.
    return "" if (len(a) > 3) != (len(b) > 3) else _code(a, b)


def _equal(a: str, b: str) -> str:
    return "" if not a or not b else SAME if a == b else DIFFERS
