"""JSON lines: an object a line, flattened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import polars as pl

from fhir_writeback_dagster import jsontext
from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.readers.limits import MAX_BROKEN, MAX_DEPTH, Shape
from fhir_writeback_dagster.ingest.readers.result import BrokenLine, Result

_encoder = msgspec.json.Encoder(decimal_format="number")


def read_json_lines(text: str, shape: Shape) -> Result:
    """``{"a": {"b": 1.50}}`` becomes ``a.b = "1.50"``; lists stay JSON. A line that is no such object is broken.

    :raises ExtractRefused: the last line breaks off, or no line is an object.
    """
    rows: list[dict[str, str | None]] = []
    names: dict[str, None] = {}
    broken: dict[int, BrokenLine] = {}
    first = 0
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _row(line)
        if isinstance(row, str):
            if number == len(lines) and row == "bad_json":  # the last line has no line end
                raise ExtractRefused("truncated", "the last line breaks off", line=number, fix="deliver the whole file again")
            broken[len(rows)] = BrokenLine(row, line)
            first = first or number
            if len(broken) > MAX_BROKEN:
                raise _broken(f"more than {MAX_BROKEN} lines are no objects of JSON", broken, first)
            row = {}
        names.update(dict.fromkeys(row))
        rows.append(row)
        shape.check(len(rows), len(names), number)
    if broken and len(broken) == len(rows):
        raise _broken("no line is an object of JSON", broken, first)
    data = {name: pl.Series([row.get(name) for row in rows], dtype=pl.String) for name in names}
    return Result(pl.DataFrame(data), broken)


def _broken(message: str, broken: Mapping[int, BrokenLine], first: int) -> ExtractRefused:
    reason = next(iter(broken.values())).reason
    return ExtractRefused(reason, message, line=first, fix="one object a line")


def _row(line: str) -> dict[str, str | None] | str:
    """The object's values by their paths, or why it is no row."""
    try:
        value = jsontext.decode(line)
        if not isinstance(value, dict):
            return "bad_json"
        row: dict[str, str | None] = {}
        for path, item in _flat(value, "", MAX_DEPTH):
            if path in row:
                return "duplicate_name"
            row[path] = item
    except jsontext.NotJsonError:
        return "bad_json"
    except jsontext.NameTwiceError:
        return "duplicate_name"
    except _TooDeepError:
        return "too_deep"
    return row


class _TooDeepError(Exception):
    pass


def _flat(value: dict[str, Any], prefix: str, left: int) -> Iterator[tuple[str, str | None]]:
    if not left:
        raise _TooDeepError
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.", left - 1)
        elif item is None or isinstance(item, str):
            yield prefix + key, item
        elif isinstance(item, bool | list):
            yield prefix + key, _encoder.encode(item).decode()
        else:
            yield prefix + key, str(item)
