"""FHIR resources as rows: a Bundle, an array, one resource, or one of these a line, as an agent hands them over.

Every resource is a row, its elements are columns (``code.coding.0.code``), and it goes through the same gates as any row: the
contract says what becomes canonical, the mapping what is written. So nothing may be lost on the way: an element that the rule
does not read and that the contract does not let go (``source_only``, ``operational``, ``ignored``) quarantines its resource.

Whose it is: a reference to a Patient or Encounter of the same file brings its elements along as ``@patient.…`` and
``@encounter.…``; a logical reference has its own, ``subject.identifier.value``; an absolute one is the column ``@patient`` or
``@encounter``, the resource's URL without a version. A relative one that the file does not resolve is an id of the sender's own,
nobody we know, unless the tenant says whose relative references are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import polars as pl

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.canonical import Coding
from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.contracts.contract import Table, columns_read_by
from fhir_writeback_dagster.ingest.contracts.reserved_columns import CONTRADICTION, ENCOUNTER_URL, PATIENT_URL, UNREAD_RESOURCE
from fhir_writeback_dagster.ingest.contracts.row_rules import RowRule, holds
from fhir_writeback_dagster.ingest.problems import Problem
from fhir_writeback_dagster.ingest.readers.fhir_documents import Entry, documents
from fhir_writeback_dagster.ingest.readers.limits import Shape
from fhir_writeback_dagster.rules.fhir import resource_url
from fhir_writeback_dagster.rules.fhir.contradictions import contradictions
from fhir_writeback_dagster.rules.fhir.dosage_text import dosage_text
from fhir_writeback_dagster.rules.fhir.r4 import definitions, types_of
from fhir_writeback_dagster.rules.fhir.resource import Resource

MAX_COLUMNS = 5_000
"""A file of many kinds of resources has more different elements than a table has columns."""

_LABEL = re.compile(r"meta\.security\.\d+\.(system|version|code|display|userSelected)")
_NAME = re.compile(r"_?[A-Za-z][A-Za-z0-9]*")

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_RELATIVE = re.compile(r"[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}", re.ASCII)

#: Column of the URL and beginning of the columns of the elements, the type, and where a resource names it.
_REFERENCES = (
    (PATIENT_URL, "Patient", ("subject", "patient")),
    (ENCOUNTER_URL, "Encounter", ("encounter", "context.encounter.0")),
)
#: The same for what a reference leads to in the file, of which the code counts alone.
_CODED_REFERENCES = (
    ("@medication", "Medication", ("medicationReference",)),
    ("@reason", "Condition", ("reasonReference.0",)),
)
_CODED = frozenset(column for column, _, _ in _CODED_REFERENCES)


def read_resources(text: str, shape: Shape, relative_to: str | None = None) -> pl.DataFrame:
    """A row for each resource, in the file's order.

    :param relative_to: the FHIR base URL whose resources the sender's relative references name; None: its own.
    :raises ExtractRefused: not JSON, no resource, nested too deeply to be read, or a Bundle that asks for something else than to
        take what is in it.
    """
    entries = list(documents(text))
    named = _resolver(entries)
    rows, names, left = [], {"resourceType": None}, shape.cells
    brought: dict[tuple[int, str], dict[str, str]] = {}
    for entry in entries:
        row = _row(entry, named, relative_to, brought)
        rows.append(row)
        names.update(dict.fromkeys(row))
        left -= len(row)  # a Patient of many elements stands in every row that names it
        if left < 0:
            raise ExtractRefused("too_many_cells", f"more than {shape.cells} elements for its size", fix="deliver in parts")
        shape.check(len(rows), len(names))
    return pl.DataFrame({name: pl.Series([row.get(name) for row in rows], dtype=pl.String) for name in names})


def _resolver(entries: Iterable[Entry]) -> Callable[[str, int], Resource | None]:
    """Reference and document → the resource of the file that it names: of its own Bundle first, else of the whole file.

    A place that two different resources claim is nobody's: two Bundles of a file may both have a ``Patient/1``.
    """
    known: dict[tuple[str, int | None], Resource | None] = {}
    for resource, full, document in entries:
        for place in _places(resource, full):
            for key in ((place, document), (place, None)):
                known[key] = resource if known.setdefault(key, resource) == resource else None

    def named(reference: str, document: int) -> Resource | None:
        place = reference.partition("/_history/")[0]
        return known[place, document] if (place, document) in known else known.get((place, None))

    return named


def _places(resource: Resource, full_url: str | None) -> Iterator[str]:
    """How references name a resource. Without a ``fullUrl``, an id that is a UUID stands for one: nothing else is called so."""
    if full_url is not None:
        yield full_url
    if isinstance(own := resource.get("id"), str):
        yield f"{resource['resourceType']}/{own}"
        if full_url is None and _UUID.fullmatch(own):
            yield f"urn:uuid:{own}"


def _row(
    entry: Entry,
    named: Callable[[str, int], Resource | None],
    relative_to: str | None,
    brought: dict[tuple[int, str], dict[str, str]],
) -> dict[str, str]:
    """``brought`` keeps the elements of what rows name, by the resource's identity and column: many rows name one."""
    kind = entry.resource["resourceType"]
    if kind not in definitions().written and kind != "Encounter":
        named_by = {"id": entry.resource["id"]} if isinstance(entry.resource.get("id"), str) else {}
        return {"resourceType": kind, **named_by, UNREAD_RESOURCE: canonicaljson.encode(entry.resource).decode()}
    resource = _worded(entry.resource)
    contained = list(_contained(resource))
    row = dict(_flat({name: part for name, part in resource.items() if name != "contained"}, ""))
    read: list[Resource] = []
    for column, wanted, elements in (*_REFERENCES, *_CODED_REFERENCES):
        reference = next((row[f"{name}.reference"] for name in elements if f"{name}.reference" in row), None)
        if reference is None:
            continue
        inner = next((one for one in contained if reference == f"#{one.get('id')}"), None)
        found = inner or named(reference, entry.document)
        if found is not None and found["resourceType"] == wanted:
            read.append(found)
            key = (id(found), column)  # of what the file holds, which stays; what is contained is gone after its row
            if inner is None and key not in brought:
                brought[key] = _elements(found, column)
            row |= _elements(found, column) if inner else brought[key]
        if column not in _CODED and (url := _url(reference, wanted, relative_to)):
            row[column] = url
    for number, one in enumerate(contained):
        if one not in read:
            row |= dict(_flat(one, f"contained.{one['resourceType']}.{number}."))
    if contradiction := next(contradictions(resource), None):
        row[CONTRADICTION] = " ".join(contradiction)
    return row


def _elements(resource: Resource, column: str) -> dict[str, str]:
    return dict(_flat({"code": resource.get("code")} if column in _CODED else resource, f"{column}."))


def _contained(resource: Resource) -> Iterator[Resource]:
    parts = resource.get("contained", [])
    for part in parts if isinstance(parts, list) else [parts]:
        if isinstance(part, dict):
            kind = part.get("resourceType")
            yield part if isinstance(kind, str) and _NAME.fullmatch(kind) else {**part, "resourceType": "?"}


def _worded(resource: Resource) -> Resource:
    """A MedicationRequest whose one dosage can be put into words, with these words for all that it says."""
    dosages = resource.get("dosageInstruction")
    if resource["resourceType"] != "MedicationRequest" or not isinstance(dosages, list) or len(dosages) != 1:
        return resource
    text = dosage_text(dosages[0])
    return resource if text is None else {**resource, "dosageInstruction": [{"text": text}]}


def _url(reference: str, kind: str, relative_to: str | None) -> str | None:
    """The URL of the resource of ``kind`` that a reference names, without version; None where it names none by URL."""
    place = reference.partition("/_history/")[0].removesuffix("/")
    if relative_to is not None and _RELATIVE.fullmatch(place):
        place = f"{relative_to}/{place}"
    resource = resource_url.parse(place)
    return place if resource is not None and resource.resource_type == kind else None


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for told, part in value.items():
            # A name that is no FHIR name (`code.text`, `0`, `@patient`) must not pass for a path that the contract reads.
            name = told if _NAME.fullmatch(told) else f"?{told}"
            yield from _flat(part, f"{path}{name}." if isinstance(part, dict | list) else f"{path}{name}")
    elif isinstance(value, list):
        for at, part in enumerate(value):
            yield from _flat(part, f"{path}{at}." if isinstance(part, dict | list) else f"{path}{at}")
    elif isinstance(value, bool):
        yield path, "true" if value else "false"
    elif value is not None:
        yield path, str(value)


def contradicting(frame: pl.DataFrame) -> dict[int, tuple[str, str]]:
    """Rows (positions) whose resource says something twice and differently, with the reason and the element."""
    if CONTRADICTION not in frame.columns:
        return {}
    said = enumerate(frame.get_column(CONTRADICTION))
    return {row: (text.split(" ")[0], text.split(" ")[1]) for row, text in said if text is not None}


def labels_of(frame: pl.DataFrame) -> list[tuple[Coding, ...] | Problem]:
    """The security labels of each row, whatever its contract says; a :class:`Problem` where one is no code of a system."""
    places = sorted({name.rpartition(".")[0] for name in frame.columns if _LABEL.fullmatch(name)})
    nothing = pl.Series([None] * frame.height, dtype=pl.String)
    found: list[list[Coding] | None] = [[] for _ in range(frame.height)]
    for place in places:
        parts = (frame.get_column(f"{place}.{name}", default=nothing) for name in ("system", "code", "display"))
        for row, (system, code, display) in enumerate(zip(*parts, strict=True)):
            if system and code and (labels := found[row]) is not None:
                labels.append(Coding(system=system, code=code))
            elif system or code or display:
                found[row] = None
    return [Problem("unknown_element", "meta") if labels is None else tuple(labels) for labels in found]


def unread(frame: pl.DataFrame, table: Table, rule: RowRule) -> dict[int, str | None]:
    """Rows (positions) that say something which ``rule`` would lose, with the element; None where R4 does not know it.

    A name that R4 does not know could be a value, and is not told.
    """
    read = columns_read_by(table, rule) | {name: [{}] for name, column in table.columns.items() if column.role != "chart"}
    lost: dict[int, str | None] = {}
    types = frame["resourceType"].to_list()
    for name in frame.columns:
        conditions = read.get(name, [])
        if (
            frame[name].null_count() == frame.height
            or {} in conditions
            or name.startswith("@")
            or _LABEL.fullmatch(name)
            or any(fnmatchcase(name, glob) for glob in table.ignored)
        ):
            continue
        said = frame[name].is_not_null()
        for condition in conditions:
            said &= ~frame.select(holds(condition).alias("read")).to_series()
        element = name.split(".")[0]
        for row in said.arg_true():
            known = types[row] in definitions().written and element in types_of(types[row])
            lost.setdefault(row, element if known else None)
    return lost
