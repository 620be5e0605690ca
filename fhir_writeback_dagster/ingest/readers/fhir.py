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

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import msgspec
import polars as pl

from fhir_writeback_dagster.canonical import Coding
from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.contracts.contract import Table, columns_read_by
from fhir_writeback_dagster.ingest.contracts.reserved_columns import ENCOUNTER_URL, PATIENT_URL
from fhir_writeback_dagster.ingest.contracts.row_rules import RowRule, holds
from fhir_writeback_dagster.ingest.problems import Problem
from fhir_writeback_dagster.rules.fhir import resource_url
from fhir_writeback_dagster.rules.fhir.r4 import definitions, types_of
from fhir_writeback_dagster.rules.fhir.resource import Resource

MAX_COLUMNS = 5_000

_LABEL = re.compile(r"meta\.security\.\d+\.(system|version|code|display|userSelected)")
_NAME = re.compile(r"_?[A-Za-z][A-Za-z0-9]*")

_RELATIVE = re.compile(r"[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}", re.ASCII)

#: Column of the URL and beginning of the columns of the elements, the type, and where a resource names it.
_REFERENCES = (
    (PATIENT_URL, "Patient", ("subject", "patient")),
    (ENCOUNTER_URL, "Encounter", ("encounter", "context.encounter.0")),
)

_json: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=Decimal)


def read_resources(text: str, relative_to: str | None = None) -> pl.DataFrame:
    """A row for each resource, in the file's order.

    :param relative_to: the FHIR base URL whose resources the sender's relative references name; None: its own.
    :raises ExtractRefused: not JSON, no resource, or a Bundle that asks for something else than to take what is in it.
    """
    entries = list(_documents(text))
    named = _resolver(entries)
    rows = [_row(entry, named, relative_to) for entry in entries]
    names = list(dict.fromkeys(["resourceType", *(name for row in rows for name in row)]))
    if len(names) > MAX_COLUMNS:
        raise ExtractRefused("too_wide", f"more than {MAX_COLUMNS} different elements", fix="deliver in parts")
    return pl.DataFrame({name: pl.Series([row.get(name) for row in rows], dtype=pl.String) for name in names})


class _Entry(NamedTuple):
    """A resource, its ``fullUrl``, and which of the file's documents (a Bundle, or a resource alone) it is in."""

    resource: Resource
    full_url: str | None
    document: int


def _documents(text: str) -> Iterator[_Entry]:
    whole = _parsed(text)
    lines = [(1, whole)]
    if whole is None:
        lines = [(n, _parsed(line)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    numbers = itertools.count()
    for line, told in lines:
        for one in told if isinstance(told, list) else [told]:
            if not isinstance(one, dict) or not isinstance(one.get("resourceType"), str):
                raise ExtractRefused(
                    "bad_json",
                    "not JSON" if one is None else "not a resource",
                    line=line,
                    fix="a Bundle, an array, a resource, or one of these a line",
                )
            number = next(numbers)
            bundled = _entries(one, line) if one["resourceType"] == "Bundle" else [(one, None)]
            yield from (_Entry(resource, full, number) for resource, full in bundled)


def _parsed(text: str) -> Any:
    try:
        return _json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _entries(bundle: Resource, line: int) -> Iterator[tuple[Resource, str | None]]:
    entries = bundle.get("entry", [])
    for listed in entries if isinstance(entries, list) else [None]:
        entry = listed if isinstance(listed, dict) else {}
        request, resource = entry.get("request"), entry.get("resource")
        method = request.get("method") if isinstance(request, dict) else None
        if method not in (None, "POST", "PUT") or not isinstance(resource, dict):
            raise ExtractRefused(
                "bad_bundle",
                "an entry is no resource to take",
                line=line,
                fix="entries with a resource; what is to be done with it is decided here",
            )
        if not isinstance(resource.get("resourceType"), str):
            raise ExtractRefused("bad_json", "an entry is not a resource", line=line, fix="name its resourceType")
        full = entry.get("fullUrl")
        yield _with_labels_of(bundle, resource), full if isinstance(full, str) else None


def _with_labels_of(bundle: dict[str, Any], resource: dict[str, Any]) -> dict[str, Any]:
    """``resource`` with the labels of its Bundle, which hold for all that is in it."""
    meta = bundle.get("meta")
    labels = meta.get("security") if isinstance(meta, dict) else None
    if labels is None:
        return resource
    told = resource.get("meta")
    own = told if isinstance(told, dict) else {}
    before = own.get("security")
    parts = [part for one in (before, labels) for part in (one if isinstance(one, list) else [one]) if part is not None]
    return {**resource, "meta": {**own, "security": parts}}


def _resolver(entries: Iterable[_Entry]) -> Callable[[str, int], Resource | None]:
    """Reference and document → the resource of the file that it names: of its own Bundle first, else of the whole file.

    A place that two different resources claim is nobody's: two Bundles of a file may both have a ``Patient/1``.
    """
    known: dict[tuple[str, int | None], Resource | None] = {}
    for resource, full, document in entries:
        own = f"{resource['resourceType']}/{resource['id']}" if isinstance(resource.get("id"), str) else None
        for place in filter(None, (full, own)):
            for key in ((place, document), (place, None)):
                known[key] = resource if known.setdefault(key, resource) == resource else None

    def named(reference: str, document: int) -> Resource | None:
        place = reference.partition("/_history/")[0]
        return known[place, document] if (place, document) in known else known.get((place, None))

    return named


def _row(entry: _Entry, named: Callable[[str, int], Resource | None], relative_to: str | None) -> dict[str, str]:
    row = dict(_flat(entry.resource, ""))
    for column, kind, elements in _REFERENCES:
        reference = next((row[f"{name}.reference"] for name in elements if f"{name}.reference" in row), None)
        if reference is None:
            continue
        resource = named(reference, entry.document)
        if resource is not None and resource["resourceType"] == kind:
            row |= dict(_flat(resource, f"{column}."))
        if url := _url(reference, kind, relative_to):
            row[column] = url
    return row


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
            {} in conditions
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
