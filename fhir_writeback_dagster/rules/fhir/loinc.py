"""What is known of common LOINC terms: the name, the units that results usually come in, and the valence of what is measured.

``loinc_units.csv`` holds about 200 terms of vital signs and laboratory results: code, long common name, usual UCUM units (the
first is that of LOINC's own examples) and, for ions, the valence by which equivalents become moles. A term that is not in it is
read without an expectation. This material contains content from LOINC (https://loinc.org), which is copyright Regenstrief
Institute, Inc. and the LOINC Committee, and available at no cost under the licence at https://loinc.org/license.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import combinations
from types import MappingProxyType

from fhir_writeback_dagster.rules.fhir.codes import fold
from fhir_writeback_dagster.rules.fhir.ucum import parse


@dataclass(frozen=True, slots=True)
class LoincTerm:
    """One term; ``valence`` is the charge of the ion that it measures, None where it is no ion or unknown."""

    code: str
    name: str
    units: tuple[str, ...]
    valence: int | None

    @property
    def measured(self) -> str:
        """What is measured, without property, specimen and method: ``Sodium``."""
        return self.name.partition(" [")[0]


@cache
def loinc_terms() -> Mapping[str, LoincTerm]:
    """Code → term, read once a process."""
    text = (files(__package__) / "loinc_units.csv").read_text(encoding="utf-8")
    return MappingProxyType(
        {
            row["code"]: LoincTerm(row["code"], row["name"], tuple(row["units"].split()), int(row["valence"] or 0) or None)
            for row in csv.DictReader(io.StringIO(text))
        }
    )


@cache
def _codes_by_name() -> Mapping[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for term in loinc_terms().values():
        found.setdefault(fold(term.name), set()).add(term.code)
    return {name: frozenset(codes) for name, codes in found.items()}


def names_another(code: str, display: str) -> bool:
    """Whether ``display`` is the long common name of another term than ``code``, and so contradicts it."""
    owners = _codes_by_name().get(fold(display))
    return owners is not None and code not in owners


def measure_different_things(codes: frozenset[str]) -> bool:
    """Whether two of these terms, given as codings of one concept, are known to measure different things.

    A general and a special term of one thing stand beside each other rightly (R4 and US Core ask for both of an oxygen
    saturation): a contradiction is another dimension, or another substance where both names tell theirs.
    """
    known = [term for code in codes if (term := loinc_terms().get(code)) is not None]
    return any(_differ(one, other) for one, other in combinations(known, 2))


def _differ(one: LoincTerm, other: LoincTerm) -> bool:
    dimensions = [{parse(unit).dimension for unit in term.units} for term in (one, other)]
    substances = [fold(term.measured) for term in (one, other) if " [" in term.name]
    return dimensions[0].isdisjoint(dimensions[1]) or len(set(substances)) > 1
