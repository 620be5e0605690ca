"""JSON Patch (RFC 6902) from one JSON value to another, guarded by ``test`` operations.

A patch is applied to whatever stands in the EHR then: every old value that it replaces or removes, and every array item that it
reaches into by index, is tested first, so that it fails on a resource that somebody changed, even where If-Match is ignored
(Medplum 4.5.2, vendor-facts).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

Operation = dict[str, Any]


def difference(base: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Operation]:
    """Operations that make ``base`` into ``wanted``; empty where they are equal. Decimals are equal by value."""
    return list(_object("", base, wanted, tested=False))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, float):
        one = Decimal(str(one))
    if isinstance(other, float):
        other = Decimal(str(other))
    return bool(one == other)


def _test(path: str, value: Any) -> Operation:
    return {"op": "test", "path": path, "value": value}


def _value(path: str, old: Any, new: Any, *, tested: bool) -> Iterator[Operation]:
    if _equal(old, new):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        yield from _object(path, old, new, tested=tested)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        yield from _items(path, old, new, tested=tested)
    elif isinstance(old, list) and isinstance(new, list) and old and _equal(old, new[: len(old)]):
        yield from ({"op": "add", "path": f"{path}/-", "value": item} for item in new[len(old) :])
    else:
        if not tested:
            yield _test(path, old)
        yield {"op": "replace", "path": path, "value": new}


def _object(path: str, old: Mapping[str, Any], new: Mapping[str, Any], *, tested: bool) -> Iterator[Operation]:
    for key in old:
        place = f"{path}/{_escaped(key)}"
        if key in new:
            yield from _value(place, old[key], new[key], tested=tested)
        else:
            if not tested:
                yield _test(place, old[key])
            yield {"op": "remove", "path": place}
    for key in new:
        if key not in old:
            yield {"op": "add", "path": f"{path}/{_escaped(key)}", "value": new[key]}


def _items(path: str, old: list[Any], new: list[Any], *, tested: bool) -> Iterator[Operation]:
    for index, (was, will) in enumerate(zip(old, new, strict=True)):
        if not _equal(was, will):
            if not tested:
                yield _test(f"{path}/{index}", was)  # the whole item: an index alone could point at another one by then
            yield from _value(f"{path}/{index}", was, will, tested=True)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
