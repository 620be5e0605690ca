"""The texts of a table as its rules see them: trimmed, and null where nothing is said."""

from __future__ import annotations

import re
import sys
from datetime import datetime

import polars as pl

from fhir_writeback_dagster.ingest.contracts.contract import Table
from fhir_writeback_dagster.ingest.contracts.ends import date_columns, end_columns
from fhir_writeback_dagster.ingest.normalise import dates

#: White space of Unicode, and what has no width at all.
_BLANKS = "".join(filter(str.isspace, map(chr, range(sys.maxunicode + 1)))) + "\u200b\u2060\ufeff"
_MIDNIGHT = r"(?:[T ]0?0:00(?::00(?:[.,]0+)?)?(?: ?(?:Z|UTC|[+-]00(?::?00)?))?)?"


def read_texts(frame: pl.DataFrame, table: Table, zone: str, now: datetime) -> pl.DataFrame:
    """The contract's columns; null where a text is one of ``nulls``, a day one of ``no_end``, or an end still to come.

    :param zone: of times without an offset, where the contract's field says none.
    """
    trimmed = pl.all().str.strip_chars(_BLANKS)
    frame = frame.select(list(table.columns)).select(pl.when(~trimmed.is_in(table.nulls)).then(trimmed).name.keep())
    days = date_columns(table)
    if table.no_end and days:
        written = pl.col(list(days)).str.contains(_no_end(table.no_end))
        frame = frame.with_columns(pl.when(~written).then(pl.col(list(days))).name.keep())
    for column in sorted(end_columns(table)):
        spec = days[column]
        here = spec.time_zone or zone
        read = dates.read(frame.get_column(column).drop_nulls().unique().to_list(), spec, here)
        ahead = [text for text, one in read.items() if one.value and dates.instant(one.value, here) > now]
        if ahead:
            frame = frame.with_columns(pl.when(~pl.col(column).is_in(ahead)).then(pl.col(column)).name.keep())
    return frame


def _no_end(texts: tuple[str, ...]) -> str:
    """A regular expression of each text, and of each ISO day as sources write it."""
    ways = []
    for text in texts:
        if day := re.fullmatch(r"(\d{4})-(\d{2})-(\d{2})", text):
            y, m, d = day.groups()
            ways.append(rf"(?:{y}([-/.]?){m}[-/.]?{d}|{d}[-/.]{m}[-/.]{y}|{m}[-/.]{d}[-/.]{y}){_MIDNIGHT}")
        else:
            ways.append(re.escape(text))
    return f"^(?:{'|'.join(ways)})$"
