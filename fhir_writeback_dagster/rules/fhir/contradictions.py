"""What a FHIR resource says twice and differently, so that nobody can tell what was meant.

R4's schema lets all of it pass, or readers take the one or the other: two types of one ``value[x]``, a unit for people that is
not the unit's code, a display that is the name of another code, two codings of one concept that are different things, and a
status that has ended at an end that nobody has seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from fhir_writeback_dagster.rules.fhir.loinc import LoincTerm, loinc_terms, measure_different_things, names_another
from fhir_writeback_dagster.rules.fhir.r4 import LOINC, UCUM, definitions
from fhir_writeback_dagster.rules.fhir.ucum import parse
from fhir_writeback_dagster.rules.fhir.unit_reading import UnitReading, UnreadableUnit, read_unit

Node = Mapping[str, Any]

#: No one has seen the end of this year: it stands for an end that is not known (``9999-12-31``).
_NO_END = "2099"
_ENDED = frozenset({"inactive", "remission", "resolved"})


class Contradiction(NamedTuple):
    """``reason`` is a code for quarantine; ``element`` a path without indices, such as ``component.code``."""

    reason: str
    element: str


def contradictions(resource: Node) -> Iterator[Contradiction]:
    """Everything in a resource of a written type that contradicts itself, the outermost first.

    ``two_values``, ``unit_contradicts_code``, ``display_contradicts_code``, ``codings_contradict``, ``status_contradicts_end``.
    """
    kind = resource.get("resourceType")
    if isinstance(kind, str) and kind in definitions().written:
        yield from _of_structure(resource, kind, "")
        if kind == "Condition" and _ended(resource) and str(resource.get("abatementDateTime", ""))[:4] >= _NO_END:
            yield Contradiction("status_contradicts_end", "abatementDateTime")


def _ended(condition: Node) -> bool:
    return any(coding.get("code") in _ENDED for coding in _codings(condition.get("clinicalStatus")))


def _of_structure(node: Node, structure: str, path: str) -> Iterator[Contradiction]:
    for stem, names in _choices(structure).items():
        if sum(name in node for name in names) > 1:
            yield Contradiction("two_values", f"{path}{stem}[x]")
    term = _term(node.get("code"))
    for name, kind in _elements(structure).items():
        for part in _each(node.get(name)):
            place = f"{path}{name}"
            if kind == "CodeableConcept":
                yield from _of_concept(part, place)
            elif kind in {"Quantity", "SimpleQuantity"}:
                yield from _of_quantity(part, place, term if name == "valueQuantity" else None)
            elif kind in definitions().structures and kind not in {"Extension", "Reference"}:
                yield from _of_structure(part, kind, f"{place}.")


def _each(value: Any) -> Iterator[Node]:
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, dict):
            yield part


@cache
def _choices(structure: str) -> Mapping[str, tuple[str, ...]]:
    found = definitions().structures.get(structure)
    elements = found.elements if found else ()
    return {element.name[:-3]: tuple(element.json_names()) for element in elements if element.name.endswith("[x]")}


@cache
def _elements(structure: str) -> Mapping[str, str]:
    """JSON name → type of the elements that can hold a contradiction."""
    found = definitions().structures.get(structure)
    names = {name: kind for element in (found.elements if found else ()) for name, kind in element.json_names().items()}
    return {name: kind.removeprefix("#") for name, kind in names.items() if kind[0].isupper() or kind.startswith("#")}


def _codings(concept: Any) -> Iterator[Node]:
    if isinstance(concept, dict):
        yield from _each(concept.get("coding"))


def _term(concept: Any) -> LoincTerm | None:
    codes = (coding.get("code") for coding in _codings(concept) if coding.get("system") == LOINC)
    return next((term for code in codes if isinstance(code, str) and (term := loinc_terms().get(code)) is not None), None)


def _of_concept(concept: Node, path: str) -> Iterator[Contradiction]:
    terms = [c for c in _codings(concept) if c.get("system") == LOINC and isinstance(c.get("code"), str)]
    for coding in terms:
        display = coding.get("display")
        if isinstance(display, str) and names_another(coding["code"], display):
            yield Contradiction("display_contradicts_code", path)
    if measure_different_things(frozenset(coding["code"] for coding in terms)):
        yield Contradiction("codings_contradict", path)


def _of_quantity(quantity: Node, path: str, term: LoincTerm | None) -> Iterator[Contradiction]:
    unit, code = quantity.get("unit"), quantity.get("code")
    if quantity.get("system") != UCUM or not isinstance(unit, str) or not isinstance(code, str) or unit == code:
        return
    shown, coded = _reading(unit, term), _reading(code, term)
    if shown is not None and coded is not None and _meaning(shown) != _meaning(coded):
        yield Contradiction("unit_contradicts_code", path)


def _reading(text: str, term: LoincTerm | None) -> UnitReading | None:
    """The unit as the result comes in it, else as anybody would read it."""
    for usual, valence in ([(term.units, term.valence)] if term else []) + [((), None)]:
        try:
            return read_unit(text, usual, valence)
        except UnreadableUnit:
            continue
    return None


def _meaning(read: UnitReading) -> tuple[object, ...]:
    unit = parse(read.code)
    return unit.factor * read.scale, unit.dimension
