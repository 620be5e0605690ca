"""Dates and times of sources as FHIR dateTimes: by shape first, vectorised, and never by guessing.

polars' ``%d/%m/%Y`` takes ``03/04/74`` for the year 74 and a DST-gap time for null (measured): so each text is first told
apart by its shape, rewritten as ISO, and only then read. What comes out has the precision that went in.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

import polars as pl

Order = Literal["dmy", "mdy", "ymd"]
DateProblem = Literal["bad_date", "ambiguous_date", "dst_gap", "dst_overlap"]


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
_WHOLE = (
    r"^(?<date>.*?[0-9])(?:(?:t| +)(?<h>[0-9]{1,2}):(?<mi>[0-9]{2})(?::(?<s>[0-9]{2})(?<fraction>\.[0-9]{1,9})?)?"
    r"(?: ?(?<half>[ap])\.?m\.?)? ?(?<offset>z|[+-][0-9]{2}:?[0-9]{2})?)?$"
)

#: Shapes with one reading, and how to rewrite them; a month's name has become ``#08`` before.
_PLAIN = {
    r"^([0-9]{4})-([0-9]{2})-([0-9]{2})$": "${1}-${2}-${3}",
    r"^([0-9]{4})-([0-9]{2})$": "${1}-${2}-01",
    r"^([0-9]{4})$": "${1}-01-01",
    r"^([0-9]{4})[/.]([0-9]{1,2})[/.]([0-9]{1,2})$": "${1}-${2}-${3}",
    r"^([0-9]{1,2})[ .-] ?#([0-9]{2})[ .,-] ?([0-9]{4})$": "${3}-${2}-${1}",
    r"^#([0-9]{2}) ([0-9]{1,2}),? ([0-9]{4})$": "${3}-${1}-${2}",
}
_SEPARATED = r"^([0-9]{1,2})[/.-]([0-9]{1,2})[/.-]([0-9]{4})$"
_COMPACT = r"^[0-9]{8}$"
#: Shapes whose reading is the source's to declare.
_ORDERED: dict[Order, dict[str, str]] = {
    "dmy": {_SEPARATED: "${3}-${2}-${1}", r"^([0-9]{2})([0-9]{2})([0-9]{4})$": "${3}-${2}-${1}"},
    "mdy": {_SEPARATED: "${3}-${1}-${2}", r"^([0-9]{2})([0-9]{2})([0-9]{4})$": "${3}-${1}-${2}"},
    "ymd": {r"^([0-9]{4})([0-9]{2})([0-9]{2})$": "${1}-${2}-${3}"},
}
_TWO_DIGIT_YEAR = r"^(?:[0-9]{1,2}|#[0-9]{2})[/. -]+(?:[0-9]{1,2}|#[0-9]{2}),?[/. -]+[0-9]{2}$"


def parse(texts: Collection[str], order: Order | None, zone: str) -> dict[str, Parsed]:
    """Read each distinct text.

    :param order: of dates that are digits alone; None: only those with one possible reading are read.
    :param zone: IANA zone of times without an offset.
    """
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return {}
    frame = pl.DataFrame({"text": pl.Series(distinct, dtype=pl.String)})
    frame = frame.with_columns(pl.col("text").str.to_lowercase().str.extract_groups(_WHOLE).alias("part")).unnest("part")
    word = pl.col("date").str.extract(_WORD)
    month = word.replace_strict(_MONTHS, default=None, return_dtype=pl.String)
    frame = frame.with_columns(pl.when(word.is_null()).then("date").otherwise(_put(month)).alias("date"))
    frame = _times(_dates(frame, order), zone)
    return {text: Parsed(value, problem) for text, value, problem in frame.select("text", "value", "problem").iter_rows()}


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


def _reading(shapes: dict[str, str]) -> pl.Expr:
    """The date as ISO text by the shape that it has, where it is a day that exists."""
    date = pl.col("date")
    rewritten = pl.coalesce(pl.when(date.str.contains(p)).then(date.str.replace(p, iso)) for p, iso in shapes.items())
    padded = rewritten.str.replace_all(r"-([0-9])\b", "-0${1}")
    exists = padded.str.to_date("%Y-%m-%d", strict=False).is_not_null() & (padded.str.slice(0, 4) != "0000")
    return pl.when(exists).then(padded)


def _dates(frame: pl.DataFrame, order: Order | None) -> pl.DataFrame:
    date = pl.col("date")
    problem = pl.when(date.str.contains(_TWO_DIGIT_YEAR)).then(pl.lit("ambiguous_date"))
    if order:
        frame = frame.with_columns(_reading(_PLAIN | _ORDERED[order]).alias("iso"), problem.alias("problem"))
    else:
        readings = [_reading(_PLAIN | {p: iso for p, iso in _ORDERED[o].items() if p == _SEPARATED}) for o in ("dmy", "mdy")]
        frame = frame.with_columns(readings[0].alias("dmy"), readings[1].alias("mdy"))
        several = (pl.col("dmy") != pl.col("mdy")).fill_null(value=False) | date.str.contains(_COMPACT)
        frame = frame.with_columns(
            pl.when(~several).then(pl.coalesce("dmy", "mdy")).alias("iso"),
            pl.when(several).then(pl.lit("ambiguous_date")).otherwise(problem).alias("problem"),
        )
    return frame.with_columns(pl.when(pl.col("iso").is_null()).then(pl.coalesce("problem", pl.lit("bad_date"))).alias("problem"))


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
    digits = pl.col("offset").str.replace(":", "")
    hours, minutes = digits.str.slice(1, 2).cast(pl.Int32, strict=False), digits.str.slice(3, 2).cast(pl.Int32, strict=False)
    exists = (hours * 60 + minutes <= 14 * 60) & (minutes < 60)
    written = pl.concat_str(digits.str.slice(0, 3), pl.lit(":"), digits.str.slice(3, 2))
    return pl.when(digits == "z").then(pl.lit("Z")).when(exists).then(written)
