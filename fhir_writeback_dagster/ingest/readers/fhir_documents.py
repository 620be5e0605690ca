"""The resources of a file of FHIR: a Bundle, an array, one resource, or one of these a line, with the Bundles in Bundles.

Every resource comes with its standard codings first and with the security labels of the Bundles that it is in.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from fhir_writeback_dagster import jsontext
from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.readers.limits import deeper, too_deep
from fhir_writeback_dagster.rules.fhir.coding_order import standard_first
from fhir_writeback_dagster.rules.fhir.resource import Resource


class Entry(NamedTuple):
    """A resource, its ``fullUrl``, and which of the file's documents (a Bundle, or a resource alone) it is in."""

    resource: Resource
    full_url: str | None
    document: int


def documents(text: str) -> Iterator[Entry]:
    """Every resource, in the file's order.

    :raises ExtractRefused: not JSON, a name that stands twice, no resource, or a Bundle that asks for more than to take it.
    """
    whole = _parsed(text, 1)
    lines = [(1, whole)]
    if whole is None:
        lines = [(n, _parsed(line, n)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    numbers = itertools.count()
    for line, delivered in lines:
        for one in delivered if isinstance(delivered, list) else [delivered]:
            if not isinstance(one, dict) or not isinstance(one.get("resourceType"), str):
                raise ExtractRefused(
                    "bad_json",
                    "not JSON" if one is None else "not a resource",
                    line=line,
                    fix="a Bundle, an array, a resource, or one of these a line",
                )
            yield from _entries(one, None, line, numbers)


def _parsed(text: str, line: int) -> Any:
    try:
        value = jsontext.decode(text)
        if deeper(value):
            raise too_deep(line)
        return value
    except jsontext.NotJsonError:
        return None
    except jsontext.NameTwiceError:
        raise ExtractRefused(
            "duplicate_name", "an object names something twice", line=line, fix="name it once: readers differ in which one counts"
        ) from None


def _entries(resource: Resource, full_url: str | None, line: int, numbers: Iterator[int]) -> Iterator[Entry]:
    """A resource alone, or all that is in a Bundle, and in the Bundles in it."""
    number = next(numbers)
    if resource["resourceType"] != "Bundle":
        yield Entry(standard_first(resource), full_url, number)
        return
    for found, full in _bundled(resource, line):
        if found["resourceType"] == "Bundle":
            yield from _entries(found, full, line, numbers)
        else:
            yield Entry(standard_first(found), full, number)


def _bundled(bundle: Resource, line: int) -> Iterator[tuple[Resource, str | None]]:
    entries = bundle.get("entry", [])
    for listed in entries if isinstance(entries, list) else [None]:
        entry = listed if isinstance(listed, dict) else {}
        request, resource = entry.get("request"), entry.get("resource")
        if resource is None and isinstance(entry.get("response"), dict) and request is None:
            continue  # an answer that only says what became of a request
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
