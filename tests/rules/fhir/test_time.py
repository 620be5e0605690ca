"""FHIR times as values."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_writeback_dagster.rules.fhir.time import Precision, instant, normalise, reversed_period, same_time


@pytest.mark.parametrize(
    ("value", "precision", "expected"),
    [
        ("2014-08-22T14:34:30-04:00", "second", "2014-08-22T18:34:30Z"),
        ("2014-08-22T18:34:30Z", "second", "2014-08-22T18:34:30Z"),
        ("2014-08-22T14:34:30.250-04:00", "exact", "2014-08-22T18:34:30.25Z"),
        ("2014-08-22T14:34:30.000-04:00", "exact", "2014-08-22T18:34:30Z"),
        ("2014-08-22T14:34:30.9-04:00", "second", "2014-08-22T18:34:30Z"),
        ("2014-08-22T23:34:30-04:00", "minute", "2014-08-23T03:34Z"),
        ("2014-08-22T23:34:30-04:00", "day", "2014-08-23"),
        ("2014-08-22T23:34:30-04:00", "month", "2014-08"),
        ("2014-12-31T23:34:30-04:00", "year", "2015"),
        ("2014-08-22", "second", "2014-08-22"),
        ("2014-08-22", "month", "2014-08"),
        ("2014", "day", "2014"),
        ("2016-12-31T23:59:60Z", "second", "2017-01-01T00:00:00Z"),
        ("0099-08-22T18:34:30Z", "second", "0099-08-22T18:34:30Z"),
    ],
)
def test_a_time_has_one_text_in_utc_at_a_precision(value: str, precision: Precision, expected: str) -> None:
    assert normalise(value, precision) == expected


@pytest.mark.parametrize(
    "value", ["", "2014", "2014-08-22", "2014-08-22T18:34:30", "2014-02-30T00:00:00Z", "yesterday", "0001-01-01T00:00:00+14:00"]
)
def test_what_is_no_instant_is_none(value: str) -> None:
    assert instant(value) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2014-08-22T18:34:30Z", "2014-08-22T14:34:30-04:00", True),
        ("2014-08-22T18:34:30.10Z", "2014-08-22T14:34:30.1-04:00", True),
        ("2014-08-22T18:34:30.1234567Z", "2014-08-22T18:34:30.1234568Z", False),
        ("2014-08-22T18:34:30Z", "2014-08-22T18:34:31Z", False),
        ("2014-08-22", "2014-08-22", True),
        ("2014-08-22", "2014-08-22T00:00:00Z", False),
        ("2014-08", "2014-08-01", False),
    ],
)
def test_times_are_equal_as_instants_or_as_equal_dates(one: str, other: str, same: bool) -> None:
    assert same_time(one, other) is same
    assert same_time(other, one) is same


@pytest.mark.parametrize(
    ("start", "end", "wrong"),
    [
        ("2014-08-22T20:34:30+02:00", "2014-08-22T18:34:30Z", False),
        ("2014-08-22T20:34:31+02:00", "2014-08-22T18:34:30Z", True),
        ("2014-08-22T18:34:30.5Z", "2014-08-22T18:34:30.25Z", True),
        ("2014-08-22", "2014-08", False),
        ("2014-09", "2014-08-22", True),
        ("2014-08-22T18:34:30Z", "2014-08-22", False),
        ("2014-08-23T18:34:30Z", "2014-08-22", True),
    ],
)
def test_a_period_is_reversed_only_where_both_ends_surely_say_so(start: str, end: str, wrong: bool) -> None:
    assert reversed_period(start, end) is wrong


def _whole_minutes(moment: datetime) -> bool:
    """FHIR offsets are hours and minutes; local mean times before 1900 have seconds."""
    offset = moment.utcoffset()
    return offset is not None and offset.seconds % 60 == 0


_moments = st.datetimes(datetime(1900, 1, 2), datetime(9999, 1, 1), timezones=st.timezones()).filter(_whole_minutes)  # noqa: DTZ001


@given(moment=_moments)
def test_every_offset_of_an_instant_normalises_alike(moment: datetime) -> None:
    whole = moment.replace(microsecond=0)
    utc = whole.astimezone(UTC).isoformat()
    assert normalise(whole.isoformat()) == normalise(utc) == utc.replace("+00:00", "Z")
