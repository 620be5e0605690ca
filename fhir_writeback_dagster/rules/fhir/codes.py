"""Which of a concept's codings says what it is, so that two sources that code one thing alike are seen to agree."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

SystemCode = tuple[str, str]
"""The system and the code of a Coding."""

#: From the most to the least preferred; a coding of any other system comes last, in the order of system and code.
PREFERRED_SYSTEMS = (
    "http://loinc.org",
    "http://www.nlm.nih.gov/research/umls/rxnorm",
    "http://hl7.org/fhir/sid/cvx",
    "http://snomed.info/sct",
    "http://hl7.org/fhir/sid/icd-10-cm",
    "http://hl7.org/fhir/sid/icd-10",
    "http://hl7.org/fhir/sid/icd-9-cm",
    "http://www.ama-assn.org/go/cpt",
    "http://www.cms.gov/Medicare/Coding/ICD10",
    "http://hl7.org/fhir/sid/ndc",
)
_RANK = {system: rank for rank, system in enumerate(PREFERRED_SYSTEMS)}
_LAST = len(PREFERRED_SYSTEMS)


def tokens(codings: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """``system|code`` of each coding that has a code."""
    return (f"{coding.get('system', '')}|{coding['code']}" for coding in codings if coding.get("code"))


def concept_key(codings: Iterable[Mapping[str, Any]], text: str | None) -> str | None:
    """``system|code`` of the coding that counts, else ``text|…`` of the folded text, else None.

    >>> concept_key([{"system": "urn:local", "code": "HT"}, {"system": "http://loinc.org", "code": "8302-2"}], "Height")
    'http://loinc.org|8302-2'
    """
    found = [(c.get("system", ""), c["code"]) for c in codings if c.get("code")]
    if len(found) == 1:
        return f"{found[0][0]}|{found[0][1]}"
    if found:
        system, code = min(found, key=lambda pair: (_RANK.get(pair[0], _LAST), pair))
        return f"{system}|{code}"
    return f"text|{fold(text)}" if text and fold(text) else None


def fold(text: str) -> str:
    """Text for comparison: NFKC, case-folded, runs of whitespace as one space."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()
