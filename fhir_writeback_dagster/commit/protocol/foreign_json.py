"""JSON as others write it. One value that is hardly JSON costs that value, not the page of five hundred resources around it.

What cannot be read (a byte that is not UTF-8, half a surrogate pair, a number beyond all, what is nested too deeply) stands in
the result as :data:`DAMAGED`, a noncharacter that no text holds (Unicode 23.7). It equals nothing of ours, so that a resource
which holds it is never taken for what it is not, and :func:`is_damaged` keeps it from being written back.
"""

from __future__ import annotations

import codecs
import json
import re
from decimal import Decimal
from typing import Any

import msgspec

from fhir_writeback_dagster import canonicaljson

DAMAGED = "\ufdd0"
DEEPEST = 100
"""Levels of nesting; R4's resources need about twenty."""
_MOST_DIGITS = 400
_LONE = re.compile(r"[\ud800-\udfff]")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)

codecs.register_error("fhir_writeback_damaged", lambda error: (DAMAGED, error.end))  # type: ignore[attr-defined]


def read_json(data: bytes) -> Any:
    """``data`` as JSON, a byte order mark passed over (RFC 8259, 8.1); None where it is something else."""
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return canonicaljson.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    text = data.decode("utf-8", errors="fhir_writeback_damaged")
    try:
        found = json.loads(_shallow(text), strict=False, parse_float=_number, parse_int=_number, parse_constant=lambda _: DAMAGED)
        return _without_lone(found)
    except (ValueError, RecursionError):
        return None


def is_damaged(value: Any) -> bool:
    """Holds ``value`` anything that could not be read?"""
    return DAMAGED in canonicaljson.encode(value).decode()


def _number(text: str) -> int | Decimal | str:
    number = Decimal(text) if len(text) <= _MOST_DIGITS else None
    if number is None or abs(number.adjusted()) > _MOST_DIGITS:
        return DAMAGED
    return number if {".", "e", "E"} & set(text) else int(text)


def _shallow(text: str) -> str:
    """``text`` with what is nested deeper than :data:`DEEPEST` taken out; one pass."""
    kept: list[str] = []
    depth = begin = 0
    for match in _TOKEN.finditer(text):
        mark = match[0]
        if mark in "[{":
            depth += 1
            if depth == DEEPEST + 1:
                kept += [text[begin : match.start()], f'"{DAMAGED}"']
        elif mark in "]}":
            if depth == DEEPEST + 1:
                begin = match.end()
            depth -= 1
    return "".join([*kept, text[begin:]]) if kept else text


def _without_lone(value: Any) -> Any:
    if isinstance(value, str):
        return _LONE.sub(DAMAGED, value)
    if isinstance(value, list):
        return [_without_lone(one) for one in value]
    if isinstance(value, dict):
        return {_LONE.sub(DAMAGED, name): _without_lone(one) for name, one in value.items()}
    return value
