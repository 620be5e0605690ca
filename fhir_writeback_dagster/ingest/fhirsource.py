"""FHIR resources as rows: a Bundle, an array, one resource, or one of these a line, as an agent hands them over.

Every resource is a row, its elements are columns (``code.coding.0.code``), and it goes through the same gates as any row: the
contract says what becomes canonical, the mapping what is written. So nothing may be lost on the way: an element that the rule
does not read and that the contract does not let go (``source_only``, ``operational``, ``ignored``) quarantines its resource.

Whose it is: a reference to a Patient or Encounter of the same file brings its elements along as ``@patient.…`` and
``@encounter.…``; a logical reference has its own, ``subject.identifier.value``. An id of the sender's own is nobody we know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any

import msgspec
import polars as pl

from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.contract import Table, columns_read_by
from fhir_writeback_dagster.ingest.rowrules import Rule, holds
from fhir_writeback_dagster.rules.r4 import definitions, types_of

MAX_COLUMNS = 5_000

_NAME = re.compile(r"_?[A-Za-z][A-Za-z0-9]*")

_REFERENCES = (("@patient", ("subject", "patient")), ("@encounter", ("encounter", "context.encounter.0")))
_json: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=Decimal)


def read_resources(text: str) -> pl.DataFrame:
    """A row for each resource, in the file's order.

    :raises ExtractRefused: not JSON, no resource, or a Bundle that asks for something else than to take what is in it.
    """
    resources = list(_resources(text))
    known = {place: resource for place, resource in _places(resources) if place}
    rows = [_row(resource, known) for _, resource in resources]
    names = list(dict.fromkeys(["resourceType", *(name for row in rows for name in row)]))
    if len(names) > MAX_COLUMNS:
        raise ExtractRefused("too_wide", f"more than {MAX_COLUMNS} different elements", mend="deliver in parts")
    return pl.DataFrame({name: pl.Series([row.get(name) for row in rows], dtype=pl.String) for name in names})


def _resources(text: str) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Each resource with its ``fullUrl``."""
    whole = _parsed(text)
    documents = [(1, whole)]
    if whole is None:
        documents = [(n, _parsed(line)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    for line, document in documents:
        for one in document if isinstance(document, list) else [document]:
            if not isinstance(one, dict) or not isinstance(one.get("resourceType"), str):
                raise ExtractRefused(
                    "bad_json",
                    "not JSON" if one is None else "not a resource",
                    line=line,
                    mend="a Bundle, an array, a resource, or one of these a line",
                )
            yield from _entries(one, line) if one["resourceType"] == "Bundle" else [(None, one)]


def _parsed(text: str) -> Any:
    try:
        return _json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _entries(bundle: dict[str, Any], line: int) -> Iterator[tuple[str | None, dict[str, Any]]]:
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
                mend="entries with a resource; what is to be done with it is decided here",
            )
        if not isinstance(resource.get("resourceType"), str):
            raise ExtractRefused("bad_json", "an entry is not a resource", line=line, mend="name its resourceType")
        full = entry.get("fullUrl")
        yield (full if isinstance(full, str) else None), resource


def _places(resources: Sequence[tuple[str | None, dict[str, Any]]]) -> Iterator[tuple[str | None, dict[str, Any]]]:
    for full, resource in resources:
        yield full, resource
        if isinstance(resource.get("id"), str):
            yield f"{resource['resourceType']}/{resource['id']}", resource


def _row(resource: dict[str, Any], known: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    row = dict(_flat(resource, ""))
    for prefix, elements in _REFERENCES:
        reference = next((row[f"{name}.reference"] for name in elements if f"{name}.reference" in row), None)
        if reference is not None and reference in known:
            row |= dict(_flat(known[reference], f"{prefix}."))
    return row


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


def unread(frame: pl.DataFrame, table: Table, rule: Rule) -> dict[int, str | None]:
    """Rows (positions) that say something which ``rule`` would lose, with the element; None where R4 does not know it.

    A name that R4 does not know could be a value, and is not told.
    """
    read = columns_read_by(table, rule) | {name: [{}] for name, column in table.columns.items() if column.role != "chart"}
    lost: dict[int, str | None] = {}
    types = frame["resourceType"].to_list()
    for name in frame.columns:
        conditions = read.get(name, [])
        if {} in conditions or name.startswith("@") or any(fnmatchcase(name, glob) for glob in table.ignored):
            continue
        said = frame[name].is_not_null()
        for condition in conditions:
            said &= ~frame.select(holds(condition).alias("read")).to_series()
        element = name.split(".")[0]
        for row in said.arg_true():
            known = types[row] in definitions().written and element in types_of(types[row])
            lost.setdefault(row, element if known else None)
    return lost
