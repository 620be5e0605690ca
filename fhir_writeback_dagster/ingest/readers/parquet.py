"""Parquet: columns of plain values, as text."""

from __future__ import annotations

import io
from collections.abc import Collection

import polars as pl

from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.readers.limits import MAX_FILE, Shape
from fhir_writeback_dagster.ingest.readers.result import Result

_AGAIN = "deliver the whole file again"
#: polars raises its own, and a panic of its Rust is no Exception.
_FAULTS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError, OverflowError)
_NOT_TEXT = (pl.Binary, pl.Duration, pl.Object, pl.Unknown)
_FIRST_DAY, _LAST_DAY = -718_797, 2_932_530  # the years 2 to 9998, in days from 1970
_TICKS = {"ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
_FREE, RATIO = 32 * 1024 * 1024, 50


def read_parquet(data: bytes, declared: Collection[str], shape: Shape) -> Result:
    """Every column that can be written as text; of others those that nobody ``declared`` are left out.

    :raises ExtractRefused: broken, too large by what its footer says, or a declared column of nested or binary values.
    """
    if data[:4] != b"PAR1" or data[-4:] != b"PAR1":
        cut = data[:4] == b"PAR1"
        raise ExtractRefused(
            "truncated" if cut else "not_parquet",
            "the file's end is missing" if cut else "not a Parquet file",
            byte=len(data) if cut else 0,
            fix=_AGAIN,
        )
    try:
        schema = pl.read_parquet_schema(io.BytesIO(data))
        height = pl.scan_parquet(io.BytesIO(data)).select(pl.len()).collect().item()
    except _FAULTS as error:
        raise _broken(error) from None
    plain = [name for name, dtype in schema.items() if not (dtype.is_nested() or dtype in _NOT_TEXT)]
    for number, (name, dtype) in enumerate(schema.items(), 1):
        if name not in plain and name in declared:
            kind = dtype.base_type()
            raise ExtractRefused("nested_column", f"column {number} ({name}) is {kind}", fix="deliver columns of plain values")
    shape.check(height, len(plain))
    try:
        frame = pl.read_parquet(io.BytesIO(data), columns=plain, use_pyarrow=False) if plain else pl.DataFrame()
        # By series and not by pl.col, to which a column's name can be a pattern.
        columns = [_as_text(column) for column in frame.get_columns()]
    except _FAULTS as error:
        raise _broken(error) from None
    # A dictionary says one long text for every row, at no cost here: only when Python reads them does it have a copy of each.
    said = sum(column.str.len_bytes().cast(pl.UInt64).sum() for column in columns)
    if said > (limit := min(MAX_FILE, _FREE + RATIO * len(data))):
        raise ExtractRefused("file_too_large", f"more than {limit} bytes of text in it", fix="deliver it in parts")
    return Result(pl.DataFrame(columns))


def _broken(error: BaseException) -> ExtractRefused:
    return ExtractRefused("bad_parquet", f"cannot be read ({type(error).__name__})", fix=_AGAIN)


def _as_text(column: pl.Series) -> pl.Series:
    """What has no year that can be written stays the number that it is, which is no date of any contract: polars panics."""
    if isinstance(column.dtype, pl.Datetime):
        written = _possible(column, _TICKS[column.dtype.time_unit]).dt.strftime(
            "%Y-%m-%dT%H:%M:%S%.f" + ("%:z" if column.dtype.time_zone else "")
        )
    elif column.dtype == pl.Date:
        written = _possible(column, 1).cast(pl.String)
    else:
        return column.cast(pl.String)
    return written.fill_null(column.to_physical().cast(pl.String))


def _possible(column: pl.Series, ticks: int) -> pl.Series:
    """Null where the year is not within 2 to 9998; ``ticks`` of the column's unit are a day."""
    possible = column.to_physical().is_between(_FIRST_DAY * ticks, _LAST_DAY * ticks)
    return pl.select(pl.when(possible).then(column).alias(column.name)).to_series()
