"""FHIR R4 (4.0.1) as data: elements, cardinalities, types, reference targets and required bindings of the written types.

``definitions.json.gz`` is made from HL7's own package by ``scripts/vendor_r4.py``; see README.md beside it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

UCUM = "http://unitsofmeasure.org"
LOINC = "http://loinc.org"


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a type; ``value[x]`` is one element with several types.

    ``types`` that begin with ``#`` name a nested structure (``#Observation.component``); ``binding`` is the canonical URL of a
    value set that binds as *required*; ``targets`` are the resource types that a Reference may name (``Resource``: any).
    """

    name: str
    min: int
    max: str
    types: tuple[str, ...]
    targets: tuple[str, ...] = ()
    binding: str | None = None

    @property
    def many(self) -> bool:
        return self.max == "*"

    def json_names(self) -> dict[str, str]:
        """``{JSON property: type}``: one property for each type of a choice; a profiled type is named as its base."""
        if not self.name.endswith("[x]"):
            return {self.name: self.types[0]}
        stem = self.name[:-3]
        bases = {kind: "Quantity" if kind == "SimpleQuantity" else kind for kind in self.types}
        return {stem + base[0].upper() + base[1:]: kind for kind, base in bases.items()}


@dataclass(frozen=True, slots=True)
class Constraint:
    """An invariant as the StructureDefinition states it: key, severity and FHIRPath."""

    key: str
    severity: str
    expression: str


@dataclass(frozen=True, slots=True)
class Structure:
    """A resource, a complex type or a nested structure of one."""

    name: str
    elements: tuple[Element, ...]
    constraints: tuple[Constraint, ...]


@dataclass(frozen=True, slots=True)
class Definitions:
    version: str
    written: tuple[str, ...]
    resources: frozenset[str]
    structures: Mapping[str, Structure]
    value_sets: Mapping[str, Mapping[str, Sequence[str]] | None] = field(repr=False)
    vital_units: Mapping[str, Sequence[str]] = field(repr=False)
    ucum_examples: Sequence[str] = field(repr=False)

    def is_resource(self, name: str) -> bool:
        return name in self.resources


@cache
def definitions() -> Definitions:
    """The vendored R4 data, read once a process (17 KB, about 9 ms)."""
    raw = json.loads(gzip.decompress((files(__package__) / "definitions.json.gz").read_bytes()))
    structures = {
        name: Structure(
            name,
            tuple(
                Element(
                    key,
                    value["min"],
                    value["max"],
                    tuple(value["types"]),
                    tuple(value.get("targets", ())),
                    value.get("binding"),
                )
                for key, value in packed["elements"].items()
            ),
            tuple(
                Constraint(c["key"], c["severity"], c["expression"])
                for holder in (packed, *packed["elements"].values())
                for c in holder.get("constraints", ())
            ),
        )
        for name, packed in raw["types"].items()
    }
    return Definitions(
        raw["version"],
        tuple(raw["written"]),
        frozenset(raw["resources"]),
        structures,
        raw["value_sets"],
        raw["vital_units"],
        raw["ucum_examples"],
    )


@cache
def types_of(structure: str) -> Mapping[str, str]:
    """``{JSON property: type}`` of a structure (``Observation``, ``Observation.component``); empty for a primitive."""
    found = definitions().structures.get(structure)
    elements = found.elements if found else ()
    return {key: kind.removeprefix("#") for element in elements for key, kind in element.json_names().items()}
