"""FHIR dates and times as values: ``2014``, ``2014-08``, ``2014-08-22`` or an instant with seconds and offset (R4, datatypes).

An instant is a point in time: two offsets of one instant are equal, and a fraction counts to its last digit.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Literal

Precision = Literal["year", "month", "day", "minute", "second", "exact"]

#: A point in time that compares exactly: UTC to the second, then the fraction's digits without trailing zeros.
Instant = tuple[datetime, str]

_INSTANT = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:)(\d{2})(?:\.(\d+))?(Z|[+-]\d{2}:\d{2})")
_DATE_LENGTHS: dict[str, int] = {"year": 4, "month": 7, "day": 10}


def instant(value: str) -> Instant | None:
    """The point in time, or None for a date, a partial date, or text that is no instant."""
    if len(value) == 20 and value[19] == "Z" and value[17:19] != "60":  # the usual shape, without the regex: 0.3 µs
        try:
            return datetime.fromisoformat(value), ""
        except ValueError:
            return None
    match = _INSTANT.fullmatch(value)
    if match is None:
        return None
    leap = match[2] == "60"  # a leap second is the first instant of the next minute, as POSIX counts
    try:
        local = datetime.fromisoformat(match[1] + ("59" if leap else match[2]) + match[4].replace("Z", "+00:00"))
        utc = local.astimezone(UTC) + timedelta(seconds=leap)
    except (ValueError, OverflowError):
        return None
    return utc, (match[3] or "").rstrip("0")


def normalise(value: str, precision: Precision = "exact") -> str:
    """One text for one time: an instant in UTC cut to ``precision``, a date as it stands (never finer than it came).

    >>> normalise("2014-08-22T14:34:30.250-04:00")
    '2014-08-22T18:34:30.25Z'
    >>> normalise("2014-08-22T14:34:30-04:00", "minute"), normalise("2014-08", "second")
    ('2014-08-22T18:34Z', '2014-08')
    """
    point = instant(value)
    if point is None:
        return value[: _DATE_LENGTHS.get(precision, 10)]
    text = point[0].isoformat()[:19] + "Z"
    if precision == "exact":
        return f"{text[:-1]}.{point[1]}Z" if point[1] else text
    if precision == "second":
        return text
    if precision == "minute":
        return text[:16] + "Z"
    return text[: _DATE_LENGTHS[precision]]


def same_time(one: str, other: str) -> bool:
    """Equal as times: the same instant whatever its offset, or the same date at the same precision."""
    if one == other:
        return True
    first = instant(one)
    return first is not None and first == instant(other)


def reversed_period(start: str, end: str) -> bool:
    """True when ``end`` is surely before ``start``; unequal precisions are compared as far as both go (FHIRPath, <=)."""
    first, last = instant(start), instant(end)
    if first is not None and last is not None:
        return last < first
    length = min(len(start[:10]), len(end[:10]))
    return end[:length] < start[:length]
