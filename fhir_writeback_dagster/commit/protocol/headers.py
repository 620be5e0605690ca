"""Headers of an EHR's answers, read tolerantly: a reader takes any text, never raises, and returns None for what it cannot use.

A header is a claim by somebody whom we do not know (a gateway, a proxy, a half-made server), and it is read after a request was
sent, where nothing may go wrong any more. The same names inside a Bundle's ``response`` are JSON and so can hold even more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from fhir_writeback_dagster.rules.fhir.resource_url import Named, named

MAX_WAIT_S = 3600.0
"""A longer Retry-After is cut: the queue asks again after an hour."""
MOST_CHARACTERS = 1000
"""A longer value is none that we use."""

_DIGITS = re.compile(r"[0-9]+")
_STATUS = re.compile(r"([1-5][0-9]{2})(?![0-9])")


def readable(headers: Mapping[str, object], names: Mapping[str, str]) -> dict[str, str]:
    """Those of ``headers`` whose names stand in ``names``, under the name that is given there; what is no printable text, or too
    long for a header that we use, is left out.
    """
    found = ((name, headers.get(name)) for name in names)
    return {names[name]: value for name, value in found if isinstance(value, str) and _is_usable(value)}


def _is_usable(value: str) -> bool:
    return len(value) <= MOST_CHARACTERS and value.isprintable()


def retry_after(value: str, now: datetime) -> float | None:
    """Seconds that we are asked to stay away (RFC 9110, 10.2.3), from none to an hour; None: it does not say."""
    text = value.strip()
    if _DIGITS.fullmatch(text):
        return min(float(text), MAX_WAIT_S)
    until = http_date(text)
    return None if until is None else min(max((until - now).total_seconds(), 0.0), MAX_WAIT_S)


def http_date(value: str) -> datetime | None:
    """An HTTP date (RFC 9110, 5.6.7) as an instant in UTC, to the second."""
    try:
        when = parsedate_to_datetime(value.strip())
        return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except (ValueError, TypeError, LookupError, OverflowError):  # whatever email's parser stumbles over
        return None


def validator(value: str) -> str | None:
    """An ETag or a Last-Modified as it can be sent back, verbatim."""
    return value if value and value.isascii() and _is_usable(value) else None


def location(value: str) -> Named | None:
    """The resource that a Location names, wherever the server says that it stands."""
    return named(value)


def status(value: object) -> int | None:
    """The status of a Bundle's entry: ``201``, ``201 Created``; a number, where a server takes it for one."""
    text = str(value) if isinstance(value, int) else value
    match = _STATUS.match(text) if isinstance(text, str) else None
    return int(match[1]) if match else None
