"""Dates are read by shape and never guessed; zoneinfo is the oracle for clocks."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_writeback_dagster.ingest.normalise.dates import Order, Parsed, instant, parse

ZURICH = "Europe/Zurich"


def one(text: str, order: Order | None = None, zone: str = ZURICH) -> Parsed:
    return parse([text], order, zone)[text]


def whole_second(local: datetime) -> datetime:
    return local.replace(microsecond=0)


@pytest.mark.parametrize(
    ("text", "order", "value"),
    [
        ("2014", None, "2014"),
        ("2014-08", None, "2014-08"),
        ("2014-08-22", None, "2014-08-22"),
        ("2014-08-22T18:34:30Z", None, "2014-08-22T18:34:30Z"),
        ("2014-08-22t18:34:30.717z", None, "2014-08-22T18:34:30.717Z"),
        ("2014-08-22 18:34:30+0530", None, "2014-08-22T18:34:30+05:30"),
        ("2014-08-22T18:34", None, "2014-08-22T18:34:00+02:00"),
        ("2014-01-22 6:05 pm", None, "2014-01-22T18:05:00+01:00"),
        ("2014-01-22 12:05 AM", None, "2014-01-22T00:05:00+01:00"),
        ("22.08.2014", "dmy", "2014-08-22"),
        ("8/22/2014", "mdy", "2014-08-22"),
        ("03/04/2025", "dmy", "2025-04-03"),
        ("03/04/2025", "mdy", "2025-03-04"),
        ("22082014", "dmy", "2014-08-22"),
        ("20140822", "ymd", "2014-08-22"),
        ("2014/8/5", None, "2014-08-05"),
        ("22-Aug-2014", None, "2014-08-22"),
        ("Aug 22, 2014", None, "2014-08-22"),
        ("5 September 2014 14:00", None, "2014-09-05T14:00:00+02:00"),
        ("22.08.2014", None, "2014-08-22"),  # only one reading exists
        ("04/04/2025", None, "2025-04-04"),  # both readings are one day
    ],
)
def test_what_is_read(text: str, order: Order | None, value: str) -> None:
    assert one(text, order) == (value, None)


@pytest.mark.parametrize(
    ("text", "order", "problem"),
    [
        ("03/04/2025", None, "ambiguous_date"),
        ("20250403", None, "ambiguous_date"),
        ("03/04/25", None, "ambiguous_date"),
        ("03/04/25", "dmy", "ambiguous_date"),  # the century is never guessed
        ("22-Aug-14", None, "ambiguous_date"),
        ("8/22/2014", "dmy", "bad_date"),
        ("2024-02-30", None, "bad_date"),
        ("31.04.2024", "dmy", "bad_date"),
        ("2024-07-01T25:00", None, "bad_date"),
        ("2024-07-01T10:00:60Z", None, "bad_date"),
        ("2024-07-01 13:00 pm", None, "bad_date"),
        ("2024-07-01T10:00:00+15:00", None, "bad_date"),
        ("2024-07T10:00", None, "bad_date"),
        ("22 Foo 2014", None, "bad_date"),
        ("45123", None, "bad_date"),
        ("yesterday", None, "bad_date"),
        ("٢٠١٤-٠٨-٢٢", None, "bad_date"),
        ("2014-08-22T18:34:30.٥Z", None, "bad_date"),
        ("0000-01-01", None, "bad_date"),
        ("2024-03-31 02:30", None, "dst_gap"),
        ("2024-10-27 02:30", None, "dst_overlap"),
    ],
)
def test_what_is_not_guessed(text: str, order: Order | None, problem: str) -> None:
    assert one(text, order) == (None, problem)


def test_an_offset_says_which_of_two_hours_it_is() -> None:
    assert one("2024-10-27 02:30:00+01:00").value == "2024-10-27T02:30:00+01:00"


@given(st.dates(min_value=date(1000, 1, 1)), st.sampled_from(["dmy", "mdy", "ymd"]), st.sampled_from([".", "/", "-"]))
def test_every_day_survives_every_declared_order(day: date, order: Order, mark: str) -> None:
    d, m, y = f"{day.day:02d}", f"{day.month:02d}", f"{day.year:04d}"
    text = {"dmy": mark.join((d, m, y)), "mdy": mark.join((m, d, y)), "ymd": mark.join((y, m, d))}[order]
    assert one(text, order) == (day.isoformat(), None)


@given(st.dates(min_value=date(1000, 1, 1)))
def test_without_an_order_a_date_is_read_only_one_way_or_not_at_all(day: date) -> None:
    read = one(f"{day.day}/{day.month}/{day.year:04d}")
    if day.day > 12 or day.day == day.month:
        assert read.value == day.isoformat()
    else:
        assert read == (None, "ambiguous_date")


@given(
    st.datetimes(min_value=datetime.fromisoformat("1970-01-01"), max_value=datetime.fromisoformat("2037-12-31")).map(
        whole_second
    ),
    st.sampled_from([ZURICH, "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kolkata"]),
)
def test_local_times_agree_with_zoneinfo(local: datetime, zone: str) -> None:
    read = one(local.isoformat(" "), zone=zone)
    early, late = (local.replace(tzinfo=ZoneInfo(zone), fold=fold) for fold in (0, 1))
    if early.utcoffset() == late.utcoffset():
        assert read.value == early.isoformat()
        assert instant(read.value, zone) == early.astimezone(UTC)
    else:
        exists = early.astimezone(UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) == local
        assert read.problem == ("dst_overlap" if exists else "dst_gap")


@given(st.datetimes(min_value=datetime.fromisoformat("1900-01-01")), st.integers(-12 * 60, 14 * 60))
def test_an_instant_with_an_offset_stays_that_instant(local: datetime, minutes: int) -> None:
    text = f"{local.isoformat()}{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    read = one(text, zone="America/New_York")
    assert read.value is not None
    assert datetime.fromisoformat(read.value).replace(tzinfo=None) == local
    assert datetime.fromisoformat(read.value).utcoffset() == timedelta(minutes=minutes)


@given(st.lists(st.text(max_size=30), max_size=20), st.sampled_from([None, "dmy", "mdy", "ymd"]))
def test_any_text_is_read_or_refused(texts: list[str], order: Order | None) -> None:
    read = parse(texts, order, ZURICH)
    assert read.keys() == set(texts)
    assert all((value is None) != (problem is None) for value, problem in read.values())


@given(st.from_regex(r"\d{1,2}[./-]\d{1,2}[./-]\d{2}", fullmatch=True), st.sampled_from([None, "dmy", "mdy", "ymd"]))
def test_a_two_digit_year_is_never_a_date(text: str, order: Order | None) -> None:
    assert one(text, order).value is None


def test_coarse_dates_begin_at_their_start_in_the_zone() -> None:
    assert instant("2014", ZURICH) == datetime(2013, 12, 31, 23, tzinfo=UTC)
    assert instant("2014-08-22", ZURICH) == datetime(2014, 8, 21, 22, tzinfo=UTC)
