"""Code systems by their URI: which texts can be a code of each, by form and check digit, without a terminology server.

A spreadsheet or a float column turns codes into other texts (``4.4054006E7``, ``860975.0``, ``8.45`` for ``008.45``, ``Apr-67``),
and some of these are codes of something else. So a text that no code of its system can be is no code, and nothing is guessed
from it. Only NDC, whose one code has several official spellings, is brought into one: the eleven digits of RxNorm and claims.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
CVX = "http://hl7.org/fhir/sid/cvx"
NDC = "http://hl7.org/fhir/sid/ndc"
ICD_10_CM = "http://hl7.org/fhir/sid/icd-10-cm"
ICD_10 = "http://hl7.org/fhir/sid/icd-10"
ICD_9_CM = "http://hl7.org/fhir/sid/icd-9-cm"
ICD_10_PCS = "http://www.cms.gov/Medicare/Coding/ICD10"
CPT = "http://www.ama-assn.org/go/cpt"

#: What exports write where they have nothing. No code and no identifier is called so.
NULL_WORDS = frozenset({"nan", "null", "n/a", "#n/a", "none", "nil", "<na>", "nat", "(null)", "\\n", "undefined"})

_CAST = re.compile(r"[+-]?\d+\.\d*[eE][+-]?\d+|\d+[eE]\+\d+|\d+\.0+", re.ASCII)


def is_null_word(text: str) -> bool:
    """Whether a text says that there is nothing: ``nan``, ``NULL``, ``#N/A``."""
    return text.casefold() in NULL_WORDS


def is_cast_number(text: str) -> bool:
    """Whether a text is what a float column makes of digits: ``100.0``, ``4.4054006E7``, ``1E+16``."""
    return _CAST.fullmatch(text) is not None


def code_of(system: str, text: str) -> str | None:
    """The code of ``system`` that ``text`` is; None where it can be none. Of a system that is not known here, any text is one.

    >>> code_of(LOINC, "2823-3"), code_of(LOINC, "2823-4"), code_of(NDC, "0002-1433-80"), code_of("urn:x", "A B")
    ('2823-3', None, '00002143380', 'A B')
    """
    read = _SYSTEMS.get(system)
    return read(text) if read else text


def mod_10(digits: str) -> int:
    """LOINC's check digit of the digits before it (LOINC Users' Guide, appendix B): the Luhn algorithm."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return -total % 10


def verhoeff(digits: str) -> bool:
    """Whether a number ends in its Verhoeff check digit (SNOMED CT, SCTID check-digit)."""
    state = 0
    for place, digit in enumerate(reversed(digits)):
        state = _D5[state][_PERMUTATIONS[place % 8][int(digit)]]
    return state == 0


#: Multiplication in the dihedral group D5, and the powers of Verhoeff's permutation.
_D5 = tuple(
    tuple((a + b) % 5 + (5 if (a >= 5) != (b >= 5) else 0) if a < 5 else (a - b) % 5 + (5 if b < 5 else 0) for b in range(10))
    for a in range(10)
)


def _powers(first: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    powers = [tuple(range(10))]
    for _ in range(7):
        powers.append(tuple(first[digit] for digit in powers[-1]))
    return tuple(powers)


_PERMUTATIONS = _powers((1, 5, 7, 6, 2, 8, 3, 0, 9, 4))


def _form(pattern: str) -> Callable[[str], str | None]:
    compiled = re.compile(pattern, re.ASCII)
    return lambda text: text if compiled.fullmatch(text) else None


_LOINC = re.compile(r"(\d{1,7})-(\d)", re.ASCII)
_LOINC_PART = re.compile(
    r"L[ALPG]\d{1,8}-\d", re.ASCII
)  # answers, lists, parts, groups: their digit is no mod 10 of these digits


def _loinc(text: str) -> str | None:
    term = _LOINC.fullmatch(text)
    if term is None:
        return text if _LOINC_PART.fullmatch(text) else None
    return text if mod_10(term[1]) == int(term[2]) else None


_SCTID = re.compile(r"[1-9]\d{5,17}", re.ASCII)
_CONCEPT_PARTITIONS = frozenset({"00", "10"})


def _snomed(text: str) -> str | None:
    """A concept's identifier; those of descriptions and relationships are no codes (SNOMED CT, partition-identifier)."""
    return text if _SCTID.fullmatch(text) and text[-3:-1] in _CONCEPT_PARTITIONS and verhoeff(text) else None


_NDC_10 = re.compile(r"(\d{4})-(\d{4})-(\d{2})|(\d{5})-(\d{3})-(\d{2})|(\d{5})-(\d{4})-(\d)", re.ASCII)
_NDC_11 = re.compile(r"\d{11}|(\d{5})-(\d{4})-(\d{2})", re.ASCII)


def _ndc(text: str) -> str | None:
    """Eleven digits, 5-4-2, from any spelling that says where its parts end; ten digits without hyphens do not."""
    if _NDC_11.fullmatch(text):
        return text.replace("-", "")
    parts = _NDC_10.fullmatch(text)
    if parts is None:
        return None
    labeler, product, package = (part for part in parts.groups() if part is not None)
    return labeler.zfill(5) + product.zfill(4) + package.zfill(2)


_SYSTEMS: Mapping[str, Callable[[str], str | None]] = MappingProxyType(
    {
        LOINC: _loinc,
        SNOMED: _snomed,
        NDC: _ndc,
        RXNORM: _form(r"[1-9]\d{0,7}"),
        CVX: _form(r"\d\d|[1-9]\d\d"),
        ICD_10_CM: _form(r"[A-TV-Z]\d[0-9AB](\.[0-9A-Z]{1,4})?|U\d\d(\.[0-9A-Z]{1,4})?"),
        ICD_10: _form(r"[A-Z]\d\d(\.[0-9A-Z]{1,2})?[†*]?"),
        ICD_9_CM: _form(r"\d{3}(\.\d{1,2})?|V\d\d(\.\d{1,2})?|E\d{3}(\.\d)?"),
        ICD_10_PCS: _form(r"[0-9A-HJ-NP-Z]{7}"),
        CPT: _form(r"\d{4}[0-9AFMTU]"),
    }
)
