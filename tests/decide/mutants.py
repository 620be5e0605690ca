"""A mutation corpus: valid resources, each spoilt in one place, by class of fault.

``corpus(resource)`` yields ``(class, path, mutant)``. Every mutant is invalid R4, so a validator that accepts one has missed it.
"""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.rules.fhir.r4 import UCUM, definitions, types_of

HERE = Path(__file__).parent
Resource = dict[str, Any]
Place = tuple[str | int, ...]
Mutant = tuple[str, Place, Resource]

#: Wrong in HL7's own package: a performer that is an Encounter, a dispenser that is a Practitioner and not an Organization.
ERRATA = {("Observation", "clinical-gender"), ("MedicationRequest", "medrx0301")}

_TIMES = {"date", "dateTime", "instant"}
_TEXTS = {"string", "markdown", "code", "uri", "url", "canonical", "id"} | _TIMES
_CHOICES: dict[str, dict[str, tuple[str, Any]]] = {
    "Observation": {"value": ("valueString", "two"), "effective": ("effectiveInstant", "2014-08-22T18:34:30Z")},
    "Condition": {"onset": ("onsetString", "two"), "abatement": ("abatementString", "two")},
    "MedicationRequest": {"medication": ("medicationReference", {"reference": "Medication/2"})},
    "Procedure": {"performed": ("performedString", "two")},
    "Immunization": {"occurrence": ("occurrenceString", "two")},
    "Patient": {"deceased": ("deceasedBoolean", False), "multipleBirth": ("multipleBirthInteger", 2)},
}


def official_examples() -> list[Resource]:
    """HL7's own R4 examples of the written types, narrative left out."""
    raw = gzip.decompress((HERE / "r4_examples.json.gz").read_bytes())
    found: list[Resource] = json.loads(raw, parse_float=Decimal)
    return found


def golden_payloads() -> list[Resource]:
    folder = HERE.parent / "golden"
    return [canonicaljson.decode(path.read_bytes())["payload"] for path in sorted(folder.glob("*/*.json"))]


def places(node: Any, kind: str, path: Place = ()) -> Iterator[tuple[Place, str, Any]]:
    """Every element with its path and R4 type, as far as the definitions here know it."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield (*path, index), kind, item
            yield from places(item, kind, (*path, index))
    elif isinstance(node, dict):
        types = types_of(kind)
        for key, value in node.items():
            if key in types and key != "contained":
                yield (*path, key), types[key], value
                yield from places(value, types[key], (*path, key))


def altered(resource: Resource, path: Place, change: Callable[[Any, str | int], None]) -> Resource:
    spoilt = copy.deepcopy(resource)
    holder: Any = spoilt
    for part in path[:-1]:
        holder = holder[part]
    change(holder, path[-1])
    return spoilt


def put(value: object) -> Callable[[Any, str | int], None]:
    def change(holder: Any, key: str | int) -> None:
        holder[key] = value

    return change


def drop(holder: Any, key: str | int) -> None:
    del holder[key]


def corpus(resource: Resource) -> Iterator[Mutant]:
    kind: str = resource["resourceType"]
    yield "unknown element", ("nonsense",), {**resource, "nonsense": "x"}
    yield "id too long", ("id",), {**resource, "id": "a" * 65}
    yield "bad id", ("id",), {**resource, "id": "has space"}
    for stem, (name, value) in _CHOICES.get(kind, {}).items():
        if any(key.startswith(stem) and key != name and key[len(stem) : len(stem) + 1].isupper() for key in resource):
            yield "two choices", (name,), {**resource, name: value}
    for path, type_name, value in places(resource, kind):
        for label, spoilt in _faults(kind, path, type_name, value):
            yield label, path, altered(resource, path, spoilt)
        yield from _missing(resource, path, type_name, value)
    for element in definitions().structures[kind].elements:
        if element.min:
            for name in element.json_names():
                if name in resource:
                    yield "missing required", (name,), altered(resource, (name,), drop)


def _missing(resource: Resource, path: Place, type_name: str, value: Any) -> Iterator[Mutant]:
    structure = definitions().structures.get(type_name)
    if isinstance(value, dict) and structure is not None:
        for element in structure.elements:
            if element.min and element.name in value:
                yield "missing required", (*path, element.name), altered(resource, (*path, element.name), drop)


def _faults(kind: str, path: Place, type_name: str, value: Any) -> Iterator[tuple[str, Callable[[Any, str | int], None]]]:
    yield "null", put(None)
    if isinstance(value, list):
        yield "empty array", put([])
        yield "null in array", put([*value, None])
        yield "not an array", put(value[0])
        return
    if isinstance(value, dict):
        yield "empty object", put({})
        yield "object as text", put("x")
        yield "unknown element", put({**value, "nonsense": "x"})
    if isinstance(value, bool):
        yield "text as boolean", put(str(value).lower())
    elif isinstance(value, (int, Decimal)):
        yield "string as number", put(str(value))
    if isinstance(value, str) and type_name in _TEXTS:
        yield "empty string", put("")
        yield "whitespace-only string", put(" \t ")
        yield "control character", put(value + "\x07")
        yield "control character", put("\x00" + value)
        yield "number as string", put(7)
    if type_name in _TIMES:
        for wrong in ("2014-02-30", "2014-13-01", "22/08/2014", "2014-08-22T18:34:30", "2014-08-22T18:34Z", "2014-8-2"):
            yield "bad date", put(wrong)
    if type_name == "code":
        yield "code with outer whitespace", put(f" {value}")
    if type_name == "Reference" and isinstance(value, dict) and "reference" in value and _is_narrow(kind, path):
        yield "wrong reference type", put({"reference": "Slot/1"})
        yield "bad reference", put({"reference": "Patient 1"})
        yield "reference to nothing contained", put({"reference": "#nobody"})
    if type_name == "Period" and isinstance(value, dict):
        yield "period reversed", put({"start": "2014-08-22", "end": "2014-08-21"})
        yield "period reversed", put({"start": "2014-08-22T18:34:30Z", "end": "2014-08-22T20:34:29+02:00"})
    if isinstance(value, dict) and value.get("system") == UCUM and "code" in value and kind == "Observation":
        yield "unit not UCUM", put({**value, "code": "mmHg"})
        yield "unit not UCUM", put({**value, "code": "beats per minute"})
    yield from _bad_codes(kind, path, value)


def _is_narrow(kind: str, path: Place) -> bool:
    owner, name = _owner(kind, path)
    element = next(e for e in definitions().structures[owner].elements if name in e.json_names())
    return "Resource" not in element.targets and bool(element.targets)


def _owner(kind: str, path: Place) -> tuple[str, str]:
    names = [part for part in path if isinstance(part, str)]
    for name in names[:-1]:
        kind = types_of(kind)[name]
    return kind, names[-1]


def _bad_codes(kind: str, path: Place, value: Any) -> Iterator[tuple[str, Callable[[Any, str | int], None]]]:
    owner, name = _owner(kind, path)
    element = next(e for e in definitions().structures[owner].elements if name in e.json_names())
    if not element.binding or definitions().value_sets[element.binding] is None:
        return
    depth = "nested" if len(path) > 1 or isinstance(value, dict) else "top-level"
    if isinstance(value, str):
        yield f"bad code, {depth}", put("nonsense")
    elif isinstance(value, dict):
        yield f"bad code, {depth}", put({"coding": [{"system": "urn:x", "code": "nonsense"}]})
        yield f"bad code, {depth}", put({"text": "only words"})
