"""Dates are read by shape and never guessed; zoneinfo is the oracle for clocks."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_writeback_dagster.ingest.contracts.fields import DateFrom
from fhir_writeback_dagster.ingest.normalise.dates import Order, Parsed, instant, parse, read

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
        # As databases, HL7 V2, Java and word processors write them.
        ("2024-01-05 10:30:00+00", None, "2024-01-05T10:30:00+00:00"),
        ("2024-01-05 10:30:00.123456-05", None, "2024-01-05T10:30:00.123456-05:00"),
        ("2024-01-05T10:30:00+5:30", None, "2024-01-05T10:30:00+05:30"),
        ("2024-01-05 10:30:00 UTC", None, "2024-01-05T10:30:00Z"),
        ("2024-01-05 10:30 gmt", None, "2024-01-05T10:30:00Z"),
        ("2024-01-05T10:30:00Z[UTC]", None, "2024-01-05T10:30:00Z"),
        ("202401051030", None, "2024-01-05T10:30:00+01:00"),
        ("20240105103000", "dmy", "2024-01-05T10:30:00+01:00"),
        ("20240105103000-0500", None, "2024-01-05T10:30:00-05:00"),
        ("20240105103000.25+0100", None, "2024-01-05T10:30:00.25+01:00"),
        ("20121201", None, "2012-12-01"),
        ("20121201", "dmy", "2012-12-01"),  # never the year 1201
        ("20081015 10:30", "mdy", "2008-10-15T10:30:00+02:00"),
        ("01022024", "dmy", "2024-02-01"),
        ("2024-1-5 9:05", None, "2024-01-05T09:05:00+01:00"),
        ("2024-01-05T10:30:00,123Z", None, "2024-01-05T10:30:00.123Z"),
        ("Jan  5 2024 10:30AM", None, "2024-01-05T10:30:00+01:00"),
        ("January 5th, 2024", None, "2024-01-05"),
        ("2024\u201101\u201105T10:30:00\u221205:00", None, "2024-01-05T10:30:00-05:00"),
    ],
)
def test_what_is_read(text: str, order: Order | None, value: str) -> None:
    assert one(text, order) == (value, None)


@pytest.mark.parametrize(
    ("text", "order", "problem"),
    [
        ("03/04/2025", None, "ambiguous_date"),
        ("10122001", None, "ambiguous_date"),
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
        ("0001-01-01T00:00:00", None, "bad_date"),  # Java's first, and other databases' defaults
        ("9999-12-31 23:59:59", None, "bad_date"),
        ("20241301", "dmy", "bad_date"),
        ("2024-01-05 10:30 EST", None, "bad_date"),
        ("1704450600", None, "bad_date"),
        ("1704450600000", None, "bad_date"),
        ("45296.4375", None, "bad_date"),
        ("2024-03-31 02:30", None, "dst_gap"),
        ("2024-10-27 02:30", None, "dst_overlap"),
    ],
)
def test_what_is_not_guessed(text: str, order: Order | None, problem: str) -> None:
    assert one(text, order) == (None, problem)


def test_an_offset_says_which_of_two_hours_it_is() -> None:
    assert one("2024-10-27 02:30:00+01:00").value == "2024-10-27T02:30:00+01:00"


days = st.dates(date(1800, 1, 1), date(2199, 12, 31))


@given(days, st.sampled_from(["dmy", "mdy", "ymd"]), st.sampled_from([".", "/", "-"]))
def test_every_day_survives_every_declared_order(day: date, order: Order, mark: str) -> None:
    d, m, y = f"{day.day:02d}", f"{day.month:02d}", f"{day.year:04d}"
    text = {"dmy": mark.join((d, m, y)), "mdy": mark.join((m, d, y)), "ymd": mark.join((y, m, d))}[order]
    assert one(text, order) == (day.isoformat(), None)


@given(days)
def test_without_an_order_a_date_is_read_only_one_way_or_not_at_all(day: date) -> None:
    found = one(f"{day.day}/{day.month}/{day.year:04d}")
    if day.day > 12 or day.day == day.month:
        assert found.value == day.isoformat()
    else:
        assert found == (None, "ambiguous_date")


@given(
    st.datetimes(min_value=datetime.fromisoformat("1970-01-01"), max_value=datetime.fromisoformat("2037-12-31")).map(
        whole_second
    ),
    st.sampled_from([ZURICH, "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kolkata"]),
)
def test_local_times_agree_with_zoneinfo(local: datetime, zone: str) -> None:
    found = one(local.isoformat(" "), zone=zone)
    early, late = (local.replace(tzinfo=ZoneInfo(zone), fold=fold) for fold in (0, 1))
    if early.utcoffset() == late.utcoffset():
        assert found.value == early.isoformat()
        assert instant(found.value, zone) == early.astimezone(UTC)
    else:
        exists = early.astimezone(UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) == local
        assert found.problem == ("dst_overlap" if exists else "dst_gap")


@given(st.datetimes(datetime.fromisoformat("1900-01-01"), datetime.fromisoformat("2199-12-31")), st.integers(-12 * 60, 14 * 60))
def test_an_instant_with_an_offset_stays_that_instant(local: datetime, minutes: int) -> None:
    text = f"{local.isoformat()}{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    found = one(text, zone="America/New_York")
    assert found.value is not None
    assert datetime.fromisoformat(found.value).replace(tzinfo=None) == local
    assert datetime.fromisoformat(found.value).utcoffset() == timedelta(minutes=minutes)


@given(st.lists(st.text(max_size=30), max_size=20), st.sampled_from([None, "dmy", "mdy", "ymd"]))
def test_any_text_is_read_or_refused(texts: list[str], order: Order | None) -> None:
    found = parse(texts, order, ZURICH)
    assert found.keys() == set(texts)
    assert all((value is None) != (problem is None) for value, problem in found.values())


@given(st.from_regex(r"\d{1,2}[./-]\d{1,2}[./-]\d{2}", fullmatch=True), st.sampled_from([None, "dmy", "mdy", "ymd"]))
def test_a_two_digit_year_is_never_a_date(text: str, order: Order | None) -> None:
    assert one(text, order).value is None


def test_coarse_dates_begin_at_their_start_in_the_zone() -> None:
    assert instant("2014", ZURICH) == datetime(2013, 12, 31, 23, tzinfo=UTC)
    assert instant("2014-08-22", ZURICH) == datetime(2014, 8, 21, 22, tzinfo=UTC)


def of(text: str, **spec: Any) -> Parsed:
    return read([text], DateFrom(column="at", **spec), ZURICH)[text]


def test_a_zone_by_its_short_name_counts_where_the_contract_says_what_it_is() -> None:
    zones = {"EST": "-05:00", "EDT": "-04:00"}
    assert of("2024-01-05 10:30 EST", zones=zones).value == "2024-01-05T10:30:00-05:00"
    assert of("20240705103000EDT", zones=zones).value is None, "HL7 knows offsets only"
    assert of("2024-01-05 10:30 CST", zones=zones).problem == "bad_date"


@pytest.mark.parametrize(
    ("text", "form", "value"),
    [
        ("1704450600", "epoch_seconds", "2024-01-05T10:30:00Z"),
        ("1704450600.5", "epoch_seconds", "2024-01-05T10:30:00.5Z"),
        ("1704450600000", "epoch_milliseconds", "2024-01-05T10:30:00Z"),
        ("-86400", "epoch_seconds", "1969-12-31T00:00:00Z"),
        ("45296", "excel", "2024-01-05"),
        ("45296.4375", "excel", "2024-01-05T10:30:00+01:00"),
        ("45296.43750001", "excel", "2024-01-05T10:30:00+01:00"),  # a double's last digits
        ("60", "excel", None),  # Excel's 29 February 1900
        ("2024-01-05", "excel", None),
        ("9223372036854775807", "epoch_milliseconds", None),  # Java's longest
        ("nan", "epoch_seconds", None),
    ],
)
def test_numbers_that_the_contract_declares_to_be_times(text: str, form: str, value: str | None) -> None:
    assert of(text, form=form) == (value, None if value else "bad_date")


@given(st.integers(61, 109_574))
def test_excels_days_agree_with_the_calendar(days: int) -> None:
    assert of(str(days), form="excel").value == (date(1899, 12, 30) + timedelta(days=days)).isoformat()
