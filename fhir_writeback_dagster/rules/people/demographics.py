"""Who a row says the patient is, against who a chart says: field by field *agrees*, *differs* or *unknown*.

Used to confirm a match on identifiers, to follow a merge, and by commit before it sends. A verdict holds no value, so it may
be kept as evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fhir_writeback_dagster.canonical import PatientRef
from fhir_writeback_dagster.rules.fhir.resource_url import comparable
from fhir_writeback_dagster.rules.people.names import forms, same_family, same_given
from fhir_writeback_dagster.rules.people.phonetic import sound

Agreement = Literal["agrees", "differs", "unknown"]

FIELDS: tuple[str, ...] = ("birth_date", "family", "given", "sex")

#: Of telecom systems, those under which a person is rung up.
_PHONES = ("phone", "sms")

#: Numbers that a household may share: a child may bear a parent's.
SHARED_SYSTEMS = frozenset({"http://hl7.org/fhir/sid/us-ssn", "urn:oid:2.16.840.1.113883.4.1"})

#: First part of the HMAC of every demographic key: apart from those of identifiers.
_DOMAIN = "demographic-key"


@dataclass(frozen=True, slots=True)
class Address:
    """As its source writes it; "" is not stated."""

    line: str = ""
    city: str = ""
    postal_code: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class Demographics:
    """What is comparable of one person; a chart may hold several names (official, maiden, old), addresses and phones.

    True if it says who a person is: an address or a phone alone does not, as households share them.
    """

    birth_date: str = ""
    families: tuple[str, ...] = ()
    givens: tuple[str, ...] = ()
    sex: str = ""
    addresses: tuple[Address, ...] = ()
    phones: tuple[str, ...] = ()
    #: (system, values) of the identifiers, for charts only
    identifiers: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.birth_date or self.families or self.givens or self.sex)


def of_row(ref: PatientRef) -> Demographics:
    """The demographics of a row; falsy if it has none."""
    return Demographics(
        birth_date=(ref.birth_date or "").strip()[:10],
        families=_texts((ref.family,)),
        givens=_texts((ref.given,)),
        sex=_sex(ref.sex),
        addresses=_addresses((Address(ref.line or "", ref.city or "", ref.postal_code or "", ref.state or ""),)),
        phones=_phones((ref.phone,)),
    )


def of_patient(resource: Mapping[str, Any]) -> Demographics:
    """The demographics of an R4 Patient; what is missing or of another type than R4 says counts as not stated."""
    names = [n for n in _list(resource.get("name")) if isinstance(n, dict)]
    identifiers: dict[str, set[str]] = {}
    for item in _list(resource.get("identifier")):
        if isinstance(item, dict) and isinstance(item.get("system"), str) and isinstance(item.get("value"), str):
            identifiers.setdefault(item["system"], set()).add(item["value"])
    return Demographics(
        birth_date=str(resource.get("birthDate") or "")[:10],
        families=_texts(n.get("family") for n in names),
        givens=_texts(" ".join(g for g in _list(n.get("given")) if isinstance(g, str)) for n in names),
        sex=_sex(resource.get("gender")),
        addresses=_addresses(_address(a) for a in _list(resource.get("address")) if isinstance(a, dict)),
        phones=_phones(
            t.get("value") for t in _list(resource.get("telecom")) if isinstance(t, dict) and t.get("system") in _PHONES
        ),
        identifiers={system: frozenset(values) for system, values in identifiers.items()},
    )


def compare(one: Demographics, other: Demographics) -> dict[str, Agreement]:
    """A verdict for each of :data:`FIELDS`; a date of less precision agrees with one that it begins."""
    return {
        "birth_date": _verdict(one.birth_date, other.birth_date, _same_date(one.birth_date, other.birth_date)),
        "family": _verdict(one.families, other.families, any(same_family(a, b) for a in one.families for b in other.families)),
        "given": _verdict(one.givens, other.givens, any(same_given(a, b) for a in one.givens for b in other.givens)),
        "sex": _verdict(one.sex, other.sex, one.sex == other.sex),
    }


def differs(verdicts: Mapping[str, Agreement]) -> bool:
    return "differs" in verdicts.values()


def agrees(verdicts: Mapping[str, Agreement]) -> bool:
    """Nothing differs and something that tells people apart (birth date or family name) agrees."""
    return not differs(verdicts) and "agrees" in (verdicts["birth_date"], verdicts["family"])


def identifier_key(system: str, value: str) -> tuple[str, str, str]:
    """Parts of the HMAC of an identifier; a social security number is the same with and without hyphens."""
    shared = system in SHARED_SYSTEMS
    return "identifier", system, value.replace("-", "").replace(" ", "") if shared else comparable(system, value)


def mirror_keys(resource: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What the mirror holds of an R4 Patient besides its identifiers: parts of the HMAC of each key, sorted."""
    who = of_patient(resource)
    return sorted(block_keys(who) | whole_keys(who))


def whole_keys(who: Demographics) -> set[tuple[str, ...]]:
    """Keys of who states family name, given name and a full birth date.

    An automatic match on demographics is verified by one before sending, as one on identifiers is by the identifier: the
    patient still bears it, and nobody else does.
    """
    if len(who.birth_date) != 10:
        return set()
    return {
        (_DOMAIN, "whole", "".join(family), "".join(given), who.birth_date)
        for family in _forms(who.families)
        for given in _forms(who.givens)
    }


def block_keys(who: Demographics) -> set[tuple[str, ...]]:
    """Keys of which two descriptions of one person share at least one if any two of given name, family name, birth date and
    postal code are roughly right, or the phone is.

    A name counts by its sound and in either place, a birth date by its year, so that a nickname, a slip of the pen, exchanged
    names or an exchanged day and month still meet.
    """
    family = {sound("".join(form)) for form in _forms(who.families)}
    given = {sound(form[0]) for form in _forms(who.givens)}
    keys: set[tuple[str, ...]] = {(_DOMAIN, "names", *sorted((f, g))) for f in family for g in given}
    if len(who.birth_date) == 10:
        keys.add((_DOMAIN, "birth", who.birth_date))
        keys |= {(_DOMAIN, "year", name, who.birth_date[:4]) for name in family | given}
    codes = {code for address in who.addresses if (code := postal_digits(address.postal_code))}
    keys |= {(_DOMAIN, "post", name, code) for name in family | given for code in codes}
    keys |= {(_DOMAIN, "phone", number) for phone in who.phones if (number := phone_digits(phone))}
    return keys


def postal_digits(text: str) -> str:
    """A postal code without case and punctuation; of a US ZIP+4 the five digits that everybody knows."""
    plain = "".join(c for c in text.casefold() if c.isalnum())
    return plain[:5] if len(plain) == 9 and plain.isdigit() else plain


def phone_digits(text: str) -> str:
    """The last nine digits: the same with and without a country's prefix; "" for what is too short to be a person's."""
    digits = "".join(c for c in text if c.isdigit())[-9:]
    return digits if len(digits) >= 7 else ""


def _forms(texts: tuple[str, ...]) -> set[tuple[str, ...]]:
    return {form for text in texts for form in forms(text)}


def _verdict(one: object, other: object, same: bool) -> Agreement:
    if not one or not other:
        return "unknown"
    return "agrees" if same else "differs"


def _same_date(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _sex(value: object) -> str:
    # `unknown` says that nobody knows: it contradicts nothing.
    return value if isinstance(value, str) and value != "unknown" else ""


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(v for v in values if isinstance(v, str) and forms(v)))


def _address(address: Mapping[str, Any]) -> Address:
    lines = " ".join(line for line in _list(address.get("line")) if isinstance(line, str))
    city, code, state = (v if isinstance(v := address.get(name), str) else "" for name in ("city", "postalCode", "state"))
    return Address(lines, city, code, state)


def _addresses(values: Iterable[Address]) -> tuple[Address, ...]:
    return tuple(dict.fromkeys(a for a in values if a != Address()))


def _phones(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(v for v in values if isinstance(v, str) and phone_digits(v)))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
