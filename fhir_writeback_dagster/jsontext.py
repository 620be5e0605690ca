"""JSON that others wrote: numbers keep their digits, and a name that stands twice in an object is an error.

RFC 8259 leaves open which of two members of one name counts, and readers differ: what one shows to a person, another writes to a
chart. ``msgspec`` keeps the last and does not say, so the names are counted beside it.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec

_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=Decimal)


class NotJsonError(ValueError):
    """The text is no JSON, or nested too deeply to be read."""


class NameTwiceError(ValueError):
    """An object names something twice."""


def decode(text: str | bytes) -> Any:
    """The value of a JSON text; numbers with a point or an exponent are decimals.

    :raises NotJsonError: no JSON.
    :raises NameTwiceError: an object in it has two members of one name.
    """
    try:
        value = _decoder.decode(text)
        twice = names_twice(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise NotJsonError from None
    if twice:
        raise NameTwiceError
    return value


def names_twice(text: str | bytes) -> bool:
    """Whether an object of this JSON text has two members of one name.

    :raises ValueError: no JSON.
    """
    try:
        json.loads(text, object_pairs_hook=_once, parse_int=str, parse_float=str)  # no number is read: they may be of any size
    except NameTwiceError:
        return True
    return False


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise NameTwiceError
