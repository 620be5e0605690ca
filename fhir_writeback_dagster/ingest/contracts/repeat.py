"""``repeat`` of a table: what a contract says of one member of a list, said of the first so many.

``repeat: {n: 24}`` makes 24 of every column and of every item of a list that names ``{n}``, with 0 to 23 in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

MOST = 64


def counts(said: Mapping[Any, Any]) -> dict[str, int]:
    """The names and numbers of a table's ``repeat``.

    :raises ValueError: a name that is no word, or a number that is not from 1 to 64.
    """
    for name, number in said.items():
        if not isinstance(name, str) or not name.isidentifier() or type(number) is not int or not 1 <= number <= MOST:
            raise ValueError(f"repeat: expected names with numbers from 1 to {MOST}")
    return dict(said)


def repeated(value: Any, counts: Mapping[str, int]) -> Any:
    """``value`` (plain data of a YAML file) with everything that names a key of ``counts`` repeated that many times."""
    if isinstance(value, dict):
        made: dict[Any, Any] = {}
        for key, part in value.items():
            name = next((n for n in counts if isinstance(key, str) and f"{{{n}}}" in key), None)
            copies = (
                [(key, part)] if name is None else [(_put(key, name, at), _put(part, name, at)) for at in range(counts[name])]
            )
            made.update((one, repeated(another, counts)) for one, another in copies)
        return made
    if isinstance(value, list):
        items: list[Any] = []
        for name, run in groupby(value, lambda part: next((n for n in counts if _names(part, n)), None)):
            parts = list(run)
            # Member by member, so that what is made of them stands in the order of the source.
            copies = parts if name is None else [_put(part, name, at) for at in range(counts[name]) for part in parts]
            items += [repeated(copy, counts) for copy in copies]
        return items
    return value


def _names(value: Any, name: str) -> bool:
    """Whether ``{name}`` stands in ``value`` outside of an inner list, which is repeated by itself."""
    if isinstance(value, dict):
        return any(_names(key, name) or _names(part, name) for key, part in value.items() if not isinstance(part, list))
    return isinstance(value, str) and f"{{{name}}}" in value


def _put(value: Any, name: str, number: int) -> Any:
    if isinstance(value, dict):
        return {_put(key, name, number): _put(part, name, number) for key, part in value.items()}
    if isinstance(value, list):
        return [_put(part, name, number) for part in value]
    return value.replace(f"{{{name}}}", str(number)) if isinstance(value, str) else value
