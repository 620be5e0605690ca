"""Read one extract whole, as text, or refuse it whole with the line or byte where it breaks; a broken line ends alone.

No complaint holds a value. What a file may cost is in :mod:`~fhir_writeback_dagster.ingest.readers.limits`.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.contracts.contract import Table
from fhir_writeback_dagster.ingest.contracts.reserved_columns import BROKEN, LINE
from fhir_writeback_dagster.ingest.readers.compressed import decompress
from fhir_writeback_dagster.ingest.readers.delimited import read_delimited
from fhir_writeback_dagster.ingest.readers.fhir import MAX_COLUMNS, read_resources
from fhir_writeback_dagster.ingest.readers.html_tables import read_tables
from fhir_writeback_dagster.ingest.readers.json_lines import read_json_lines
from fhir_writeback_dagster.ingest.readers.limits import MAX_FIELD, MAX_FILE, Shape, too_large
from fhir_writeback_dagster.ingest.readers.parquet import read_parquet
from fhir_writeback_dagster.ingest.readers.result import Result

__all__ = ["MAX_FIELD", "MAX_FILE", "read"]


def read(data: bytes, table: Table, *, whole: bool, relative_to: str | None = None) -> pl.DataFrame:
    """All rows as text columns, in the order delivered; null only where the format itself knows it (JSON, Parquet).

    Optional columns that the file lacks are there as nulls; columns that the contract does not know stay. A line that is no row
    is all null but for the columns ``@broken``, its reason, and ``@line``, its text; they are there only where such a line is.

    :param whole: the file is proved whole (by its manifest), so a missing last line end is no sign of a cut.
    :param relative_to: fhir: the base URL whose resources the sender's relative references name; None: its own.
    :raises ExtractRefused: see the module; ``line`` counts from 1 with the header (rows of Parquet: without), ``byte`` from 0.
    """
    delivered = len(data)
    data = decompress(data)
    if not data.strip(b" \t\r\n"):
        raise ExtractRefused("empty_file", "the file is empty", byte=0, fix="deliver the whole file again")
    result = _read(data, table, Shape.of(delivered, len(data)), whole=whole, relative_to=relative_to)
    frame = result.frame
    long = [at for column in frame.get_columns() for at in (column.str.len_bytes() > MAX_FIELD).arg_true()]
    if long:
        raise too_large(min(long) + 1)
    if reserved := [name for name in (BROKEN, LINE) if name in frame.columns]:
        raise ExtractRefused("bad_header", f"a column has the reserved name {reserved[0]}", line=1, fix="rename it")
    if missing := [name for name in table.required if name not in frame.columns]:
        raise ExtractRefused(
            "missing_column",
            f"no column {', '.join(missing)}",
            line=1,
            fix="deliver it, or make a version of the contract without it",
        )
    absent = [name for name in table.columns if name not in frame.columns]
    frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in absent)
    if result.broken:
        reasons: list[str | None] = [None] * frame.height
        lines: list[str | None] = [None] * frame.height
        for at, one in result.broken.items():
            reasons[at], lines[at] = one.reason, one.line
        frame = frame.with_columns(pl.Series(BROKEN, reasons, dtype=pl.String), pl.Series(LINE, lines, dtype=pl.String))
    return frame


def _read(data: bytes, table: Table, shape: Shape, *, whole: bool, relative_to: str | None) -> Result:
    if table.format == "parquet":
        return read_parquet(data, table.columns, shape)
    text = _decode(data, table.encoding)
    if not text.strip():  # nothing but a byte order mark
        raise ExtractRefused("empty_file", "the file is empty", byte=len(data), fix="deliver the whole file again")
    match table.format:
        case "jsonl":
            return read_json_lines(text, shape)
        case "html":
            return Result(read_tables(text, table, whole=whole))
        case "fhir":
            return Result(read_resources(text, replace(shape, max_columns=MAX_COLUMNS), relative_to))
        case _:
            return read_delimited(text, table, shape, whole=whole)


def _decode(data: bytes, encoding: str) -> str:
    if encoding != "utf-16" and (at := data.find(0)) >= 0:
        code, what = (
            ("wrong_encoding", "looks like UTF-16") if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else ("binary", "is binary")
        )
        raise ExtractRefused(code, f"the file {what}", byte=at, fix=f"deliver text in {encoding}")
    try:
        return data.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ExtractRefused(
            "wrong_encoding",
            f"not {encoding}",
            line=line,
            byte=error.start,
            fix=f"deliver it in {encoding}, or declare the table's encoding",
        ) from None
