"""Dates and times of sources as FHIR dateTimes: by shape first, vectorised, and never by guessing.

polars' ``%d/%m/%Y`` takes ``03/04/74`` for the year 74 and a DST-gap time for null (measured): so each text is first told
apart by its shape, rewritten as ISO, and only then read. What comes out has the precision that went in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from types import MappingProxyType
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

import polars as pl

from fhir_writeback_dagster.ingest.contracts.fields import DateFrom

Order = Literal["dmy", "mdy", "ymd"]
DateProblem = Literal["bad_date", "ambiguous_date", "dst_gap", "dst_overlap"]


_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(?:\.[0-9]{1,18})?", re.ASCII)
_DAYS_TO_2200 = 109_575  # as Excel counts them
_LONGEST = 7_258_118_400_000_000  # microseconds from 1970 to 2200


class Parsed(NamedTuple):
    """A FHIR dateTime, or the reason why there is none."""

    value: str | None
    problem: DateProblem | None


_NAMES = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november")
_MONTHS = {
    **{name[:3]: f"#{number:02d}" for number, name in enumerate((*_NAMES, "december"), 1)},
    **{name: f"#{number:02d}" for number, name in enumerate((*_NAMES, "december"), 1)},
    "sept": "#09",
}
_WORD = r"([a-z]{3,9})\.?"
_OFFSET = r"z|utc|gmt|[+-][0-9]{2}(?::?[0-9]{2})?|[+-][0-9]:[0-9]{2}"
#: A day, a time, and a zone: an offset, or a name of the source's; Java writes its zone's name behind the offset, which decides.
_WHOLE = (
    r"^(?<date>.*?[0-9])(?:(?:t| )(?<h>[0-9]{1,2}):(?<mi>[0-9]{2})(?::(?<s>[0-9]{2})(?<fraction>[.,][0-9]{1,9})?)?"
    r"(?: ?(?<half>[ap])\.?m\.?)?(?: ?(?<offset>OFFSET)(?:\[[a-z0-9_/+-]+\])?)?)?$"
)
#: HL7 V2's DTM to the minute or finer.
_COMPACT_TIMES = {
    rf"^([0-9]{{8}})([0-9]{{2}})([0-9]{{2}}) ?({_OFFSET})?$": "${1} ${2}:${3}${4}",
    rf"^([0-9]{{8}})([0-9]{{2}})([0-9]{{2}})([0-9]{{2}}(?:[.,][0-9]{{1,9}})?) ?({_OFFSET})?$": "${1} ${2}:${3}:${4}${5}",
}
#: Dashes and minus signs that word processors and fonts put for a hyphen.
_DASHES = "[\u2010\u2011\u2012\u2013\u2212]"

#: Shapes with one reading, and how to rewrite them; a month's name has become ``#08`` before.
_PLAIN = {
    r"^([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})$": "${1}-${2}-${3}",
    r"^([0-9]{4})-([0-9]{2})$": "${1}-${2}-01",
    r"^([0-9]{4})$": "${1}-01-01",
    r"^([0-9]{4})[/.]([0-9]{1,2})[/.]([0-9]{1,2})$": "${1}-${2}-${3}",
    r"^([0-9]{1,2})[ .-] ?#([0-9]{2})[ .,-] ?([0-9]{4})$": "${3}-${2}-${1}",
    r"^#([0-9]{2}) ([0-9]{1,2}),? ([0-9]{4})$": "${3}-${1}-${2}",
}
#: Eight digits are never two days: read the other way round, the year of one would be before 1300.
_COMPACT = r"^([0-9]{4})([0-9]{2})([0-9]{2})$"
_COMPACT_ORDERED = r"^([0-9]{2})([0-9]{2})([0-9]{4})$"
_SEPARATED = r"^([0-9]{1,2})[/.-]([0-9]{1,2})[/.-]([0-9]{4})$"
_PUT: dict[Order, str] = {"dmy": "${3}-${2}-${1}", "mdy": "${3}-${1}-${2}"}
_TWO_DIGIT_YEAR = r"^(?:[0-9]{1,2}|#[0-9]{2})[/. -]+(?:[0-9]{1,2}|#[0-9]{2}),?[/. -]+[0-9]{2}$"
#: A patient's dates; other years are a default of some database's, or a misread order.
_FIRST_YEAR, _LAST_YEAR = "1800", "2199"


def read(texts: Collection[str], spec: DateFrom, zone: str) -> dict[str, Parsed]:
    """Read each distinct text as the contract says; ``zone`` is that of times without an offset."""
    numbers = {text: serial(text, spec.form) for text in texts} if spec.form != "text" else {}
    written = [number for number in numbers.values() if number] if numbers else texts
    offsets = {name.lower(): offset for name, offset in spec.zones.items()}
    parsed = _each_alone(written, partial(parse, order=spec.order, zone=zone, zones=offsets))
    if not numbers:
        return parsed
    return {text: parsed[number] if number else Parsed(None, "bad_date") for text, number in numbers.items()}


def parse(
    texts: Collection[str], order: Order | None, zone: str, zones: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Parsed]:
    """Read each distinct text.

    :param order: of dates that are digits alone; None: only those with one possible reading are read.
    :param zone: IANA zone of times without an offset.
    :param zones: offset of each short name of a zone that may stand behind a time, in lower case.
    """
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return {}
    frame = pl.DataFrame({"text": pl.Series(distinct, dtype=pl.String)})
    clean = pl.col("text").str.to_lowercase().str.replace_all(_DASHES, "-").str.replace_all(r"\s+", " ").str.strip_chars()
    for shape, spaced in _COMPACT_TIMES.items():
        clean = clean.str.replace(shape, spaced)
    whole = _WHOLE.replace("OFFSET", "|".join([*sorted(zones, key=len, reverse=True), _OFFSET]))
    frame = frame.with_columns(clean.str.extract_groups(whole).alias("part")).unnest("part")
    frame = frame.with_columns(
        pl.col("date").str.replace(r"([0-9])(?:st|nd|rd|th)\b", "${1}"),
        pl.col("fraction").str.replace(",", ".", literal=True),
        pl.col("offset").replace({**zones, "utc": "z", "gmt": "z"}),
    )
    word = pl.col("date").str.extract(_WORD)
    month = word.replace_strict(_MONTHS, default=None, return_dtype=pl.String)
    frame = frame.with_columns(pl.when(word.is_null()).then("date").otherwise(_put(month)).alias("date"))
    frame = _times(_dates(frame, order), zone)
    return {text: Parsed(value, problem) for text, value, problem in frame.select("text", "value", "problem").iter_rows()}


def _each_alone(texts: Collection[str], parse: Callable[[Collection[str]], dict[str, Parsed]]) -> dict[str, Parsed]:
    """All at once; where that fails, one by one, so that a text that nobody foresaw is one row's problem."""
    try:
        return parse(texts)
    except Exception:  # noqa: BLE001 - a date that nobody foresaw is the row's
        if len(texts) < 2:
            return dict.fromkeys(texts, Parsed(None, "bad_date"))
        return {key: value for text in texts for key, value in _each_alone([text], parse).items()}


def serial(text: str, form: Literal["epoch_seconds", "epoch_milliseconds", "excel", "text"]) -> str | None:
    """A number that stands for a time, as text with the zone or without, as the form means it; None: it stands for none.

    Excel believes that 1900 was a leap year, so days before March of that year are a day off and are none.
    """
    if not _NUMBER.fullmatch(text):
        return None
    number = Decimal(text)
    if form == "excel":
        if not 61 <= number < _DAYS_TO_2200:
            return None
        seconds = round(number % 1 * 86_400)
        at = datetime(1899, 12, 30, tzinfo=UTC) + timedelta(days=int(number), seconds=seconds)
        return f"{at:%Y-%m-%d %H:%M:%S}" if number % 1 else f"{at:%Y-%m-%d}"
    microseconds = number * (1_000_000 if form == "epoch_seconds" else 1_000)
    if abs(microseconds) > _LONGEST or microseconds % 1:
        return None
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(microseconds))
    fraction = f"{at:.%f}".rstrip("0") if at.microsecond else ""
    return f"{at:%Y-%m-%d %H:%M:%S}{fraction}Z"


def instant(value: str, zone: str) -> datetime:
    """The moment (UTC) of a FHIR dateTime, for ordering only: what is coarser than a second begins at its start in ``zone``."""
    if "T" in value:
        return datetime.fromisoformat(value).astimezone(UTC)
    year, month, day = (*map(int, value.split("-")), 1, 1)[:3]
    return datetime(year, month, day, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def _put(month: pl.Expr) -> pl.Expr:
    """The date with its month's name replaced; null where the name is no month's."""
    before = pl.col("date").str.extract(r"^([^a-z]*)[a-z]", 1)
    after = pl.col("date").str.extract(rf"^[^a-z]*{_WORD}([^a-z]*)$", 2)
    return pl.concat_str(before, month, after)


def _reading(shapes: Mapping[str, str]) -> pl.Expr:
    """The date as ISO text by the shape that it has, where it is a day that exists in a year of ours."""
    date = pl.col("date")
    rewritten = pl.coalesce(pl.when(date.str.contains(p)).then(date.str.replace(p, iso)) for p, iso in shapes.items())
    padded = rewritten.str.replace_all(r"-([0-9])\b", "-0${1}")
    ours = padded.str.slice(0, 4).is_between(pl.lit(_FIRST_YEAR), pl.lit(_LAST_YEAR))
    exists = padded.str.to_date("%Y-%m-%d", strict=False).is_not_null() & ours
    return pl.when(exists).then(padded)


def _dates(frame: pl.DataFrame, order: Order | None) -> pl.DataFrame:
    date = pl.col("date")
    plain = pl.coalesce(_reading(_PLAIN), _reading({_COMPACT: "${1}-${2}-${3}"}))
    ordered = {one: _reading({_SEPARATED: put, _COMPACT_ORDERED: put}) for one, put in _PUT.items()}
    frame = frame.with_columns(plain.alias("iso"), ordered["dmy"].alias("dmy"), ordered["mdy"].alias("mdy"))
    problem: pl.Expr = pl.when(date.str.contains(_TWO_DIGIT_YEAR)).then(pl.lit("ambiguous_date"))
    if order:
        iso = pl.coalesce("iso", *([order] if order in _PUT else []))
    else:
        several = pl.col("iso").is_null() & (pl.col("dmy") != pl.col("mdy")).fill_null(value=False)
        iso = pl.coalesce("iso", pl.when(~several).then(pl.coalesce("dmy", "mdy")))
        problem = pl.when(several).then(pl.lit("ambiguous_date")).otherwise(problem)
    return frame.with_columns(iso.alias("iso")).with_columns(
        pl.when(pl.col("iso").is_null()).then(pl.coalesce(problem, pl.lit("bad_date"))).alias("problem")
    )


def _times(frame: pl.DataFrame, zone: str) -> pl.DataFrame:
    hour, half = pl.col("h").cast(pl.Int32), pl.col("half")
    on_dial = half.is_null() | hour.is_between(1, 12)
    hour24 = pl.when(half == "p").then(hour % 12 + 12).when(half == "a").then(hour % 12).otherwise(hour)
    clock = pl.concat_str(
        hour24.cast(pl.String).str.zfill(2), pl.lit(":"), pl.col("mi"), pl.lit(":"), pl.col("s").fill_null("00")
    )
    frame = frame.with_columns(pl.concat_str("iso", pl.lit("T"), pl.when(on_dial).then(clock)).alias("local"))
    local = pl.col("local").str.to_datetime("%Y-%m-%dT%H:%M:%S", strict=False, time_unit="us")
    frame = frame.with_columns(
        pl.when(pl.col("iso").str.len_chars() == 10).then(local).alias("at"),
        _offset().alias("said"),
        pl.col("h").is_not_null().alias("timed"),
        pl.col("date").str.contains(r"^[0-9]{4}(-[0-9]{2})?$").alias("coarse"),
    ).with_columns(
        pl.col("at").dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").alias("early"),
        pl.col("at").dt.replace_time_zone(zone, ambiguous="latest", non_existent="null").alias("late"),
    )
    by_clock, here = pl.col("timed"), pl.col("offset").is_null()
    wrong = by_clock & (pl.col("at").is_null() | (pl.col("s") > "59") | pl.col("coarse") | (~here & pl.col("said").is_null()))
    problem = (
        pl.when(pl.col("problem").is_not_null())
        .then("problem")
        .when(wrong)
        .then(pl.lit("bad_date"))
        .when(by_clock & here & pl.col("early").is_null())
        .then(pl.lit("dst_gap"))
        .when(by_clock & here & (pl.col("early") != pl.col("late")))
        .then(pl.lit("dst_overlap"))
    )
    offset = pl.when(here).then(pl.col("early").dt.strftime("%:z")).otherwise("said")
    value = (
        pl.when(by_clock)
        .then(pl.concat_str("local", pl.col("fraction").fill_null(""), offset))
        .when(pl.col("coarse"))
        .then("date")
        .otherwise("iso")
    )
    return frame.with_columns(problem.alias("problem")).with_columns(
        pl.when(pl.col("problem").is_null()).then(value).alias("value")
    )


def _offset() -> pl.Expr:
    """``Z`` or ``+02:00`` where the text says one that exists (-12:00 to +14:00)."""
    digits = pl.col("offset").str.replace(r"^([+-])([0-9]:)", "${1}0${2}").str.replace(":", "").str.replace("^(...)$", "${1}00")
    hours, minutes = digits.str.slice(1, 2).cast(pl.Int32, strict=False), digits.str.slice(3, 2).cast(pl.Int32, strict=False)
    exists = (hours * 60 + minutes <= 14 * 60) & (minutes < 60)
    written = pl.concat_str(digits.str.slice(0, 3), pl.lit(":"), digits.str.slice(3, 2))
    return pl.when(digits == "z").then(pl.lit("Z")).when(exists).then(written)
