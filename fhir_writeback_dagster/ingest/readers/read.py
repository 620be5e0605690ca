"""Read one extract whole, as text, or refuse it whole with the line or byte where it breaks.

CSV goes through Python's strict reader and not polars': polars fills a short row with nulls, renames a header that stands
twice and quotes cells in its errors (measured, 1.35). The frame that comes out is polars'. No complaint holds a value, and a
header that was not declared is never named: in a file without a header it is a patient's data.
"""

from __future__ import annotations

import csv
import io
from decimal import Decimal
from typing import Any

import msgspec
import polars as pl

from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.contracts.contract import Table
from fhir_writeback_dagster.ingest.readers.fhir import read_resources
from fhir_writeback_dagster.ingest.readers.html_tables import read_tables

#: A longer value is no field of ours: US Core servers promise 5 MiB inline (US Core, writing clinical notes).
MAX_FIELD = 5 * 1024 * 1024
MAX_FILE = 512 * 1024 * 1024

_AGAIN = "deliver the whole file again"


def read(data: bytes, table: Table, *, whole: bool, relative_to: str | None = None) -> pl.DataFrame:
    """All rows as text columns, in the order delivered; null only where the format itself knows it (JSON, Parquet).

    Optional columns that the file lacks are there as nulls; columns that the contract does not know stay.

    :param whole: the file is proved whole (by its manifest), so a missing last line end is no sign of a cut.
    :param relative_to: fhir: the base URL whose resources the sender's relative references name; None: its own.
    :raises ExtractRefused: see the module; ``line`` counts from 1 with the header (rows of Parquet: without), ``byte`` from 0.
    """
    if not data.strip(b" \t\r\n"):
        raise ExtractRefused("empty_file", "the file is empty", byte=0, fix=_AGAIN)
    if table.format == "parquet":
        frame = _parquet(data)
    else:
        text = _decode(data, table.encoding)
        if not text.strip():  # nothing but a byte order mark
            raise ExtractRefused("empty_file", "the file is empty", byte=len(data), fix=_AGAIN)
        match table.format:
            case "jsonl":
                frame = _jsonl(text)
            case "html":
                frame = read_tables(text, table, whole=whole)
            case "fhir":
                frame = read_resources(text, relative_to)
            case _:
                frame = _csv(text, table, whole=whole)
    long = [at for column in frame.get_columns() for at in (column.str.len_bytes() > MAX_FIELD).arg_true()]
    if long:
        raise _too_large(min(long) + 1)
    if missing := [name for name in table.required if name not in frame.columns]:
        raise ExtractRefused(
            "missing_column",
            f"no column {', '.join(missing)}",
            line=1,
            fix="deliver it, or make a version of the contract without it",
        )
    absent = [name for name in table.columns if name not in frame.columns]
    return frame.with_columns(pl.lit(None, pl.String).alias(name) for name in absent)


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


def _csv(text: str, table: Table, *, whole: bool) -> pl.DataFrame:
    limit = csv.field_size_limit(MAX_FIELD)  # the module's own and only setting: put back below
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=table.delimiter, strict=True)
    rows: list[list[str]] = []
    start = 1
    try:
        header = next(reader)
        _check_header(header)
        width = len(header)
        start = reader.line_num + 1
        for row in reader:
            if len(row) == width:
                rows.append(row)
            elif row:  # an empty line is no row
                raise _ragged(len(row), width, start, last=next(reader, None) is None)
            start = reader.line_num + 1
    except csv.Error as error:
        if "field larger" in str(error):
            raise _too_large(start) from None
        cut = "unexpected end" in str(error)
        raise ExtractRefused(
            "truncated" if cut else "bad_csv",
            "a quote is never closed" if cut else "a quote stands where none may",
            line=start,
            fix=_AGAIN if cut else "quote the field as RFC 4180 says",
        ) from None
    finally:
        csv.field_size_limit(limit)
    if not (whole or table.final_newline == "optional" or text.endswith(("\n", "\r"))):
        raise ExtractRefused(
            "truncated",
            "the last line has no line end, so its last value may be cut",
            line=start - 1,
            fix=f"{_AGAIN}, with a manifest, or declare `final_newline: optional`",
        )
    return pl.DataFrame(rows, schema=dict.fromkeys(header, pl.String), orient="row")


def _check_header(header: list[str]) -> None:
    if not all(name.strip() for name in header):
        raise ExtractRefused("bad_header", "a column has no name", line=1, fix="name every column")
    if len(set(header)) != len(header):
        first = next(n for n, name in enumerate(header) if name in header[:n])
        raise ExtractRefused(
            "duplicate_header", f"column {first + 1} has the name of an earlier one", line=1, fix="name each column once"
        )


def _ragged(found: int, width: int, line: int, *, last: bool) -> ExtractRefused:
    cut = last and found < width
    return ExtractRefused(
        "truncated" if cut else "ragged_row",
        f"{found} fields where the header has {width}",
        line=line,
        fix=_AGAIN if cut else "quote fields that hold the delimiter",
    )


def _too_large(line: int) -> ExtractRefused:
    return ExtractRefused(
        "field_too_large", f"a field is longer than {MAX_FIELD >> 20} MiB", line=line, fix="deliver such documents by reference"
    )


_encoder = msgspec.json.Encoder(decimal_format="number")
_json: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=Decimal)


def _jsonl(text: str) -> pl.DataFrame:
    rows: list[dict[str, str | None]] = []
    names: dict[str, None] = {}
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = _json.decode(line)
        except (msgspec.DecodeError, RecursionError):
            cut = number == len(lines)  # the last line has no line end
            raise ExtractRefused(
                "truncated" if cut else "bad_json",
                "the last line breaks off" if cut else "a line is not JSON",
                line=number,
                fix=_AGAIN,
            ) from None
        if not isinstance(value, dict):
            raise ExtractRefused("bad_json", "a line is not an object", line=number, fix="one object a line")
        row: dict[str, str | None] = {}
        _flatten(value, "", row)
        names.update(dict.fromkeys(row))
        rows.append(row)
    return pl.DataFrame({name: pl.Series([row.get(name) for row in rows], dtype=pl.String) for name in names})


def _flatten(value: dict[str, Any], prefix: str, into: dict[str, str | None]) -> None:
    """``{"a": {"b": 1.50}}`` becomes ``a.b = "1.50"``; lists stay JSON."""
    for key, item in value.items():
        if isinstance(item, dict):
            _flatten(item, f"{prefix}{key}.", into)
        elif item is None or isinstance(item, str):
            into[prefix + key] = item
        elif isinstance(item, bool | list):
            into[prefix + key] = _encoder.encode(item).decode()
        else:
            into[prefix + key] = str(item)


def _parquet(data: bytes) -> pl.DataFrame:
    if data[:4] != b"PAR1" or data[-4:] != b"PAR1":
        cut = data[:4] == b"PAR1"
        raise ExtractRefused(
            "truncated" if cut else "not_parquet",
            "the file's end is missing" if cut else "not a Parquet file",
            byte=len(data) if cut else 0,
            fix=_AGAIN,
        )
    try:
        frame = pl.read_parquet(io.BytesIO(data), use_pyarrow=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise ExtractRefused("bad_parquet", f"cannot be read ({type(error).__name__})", fix=_AGAIN) from None
    for number, dtype in enumerate(frame.dtypes, 1):
        if dtype.is_nested() or dtype == pl.Binary:
            raise ExtractRefused(
                "nested_column", f"column {number} is {dtype.base_type()}", fix="deliver columns of plain values"
            )
    # By series and not by pl.col, to which a column's name can be a pattern.
    return pl.DataFrame([_as_text(column) for column in frame.get_columns()])


def _as_text(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.Datetime):
        return column.dt.strftime("%Y-%m-%dT%H:%M:%S%.f" + ("%:z" if column.dtype.time_zone else ""))
    return column.cast(pl.String)
