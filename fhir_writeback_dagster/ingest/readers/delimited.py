"""CSV and its kin, by Python's strict reader.

polars' own fills a short row with nulls, renames a header that stands twice and quotes cells in its errors (measured, 1.35). No
complaint holds a value, and a header that was not declared is never named: in a file without a header it is a patient's data.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import polars as pl

from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.contracts.contract import Table
from fhir_writeback_dagster.ingest.readers.limits import MAX_BROKEN, MAX_FIELD, Shape, too_large
from fhir_writeback_dagster.ingest.readers.result import BrokenLine, Result

_AGAIN = "deliver the whole file again"
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
_SEP = re.compile(r"sep=([^\r\n])(?:\r\n|\r|\n)", re.IGNORECASE)
_CHUNK = 200_000  # cells that are in Python's lists at a time
_LONGEST_FOOTER = 1_000
# Stand for \\ and \" while the text is split; a file that has them is refused.
_BACKSLASH, _QUOTE = "\x01", "\x02"


def read_delimited(text: str, table: Table, shape: Shape, *, whole: bool) -> Result:
    """Rows, and the lines that are none because they have another number of fields than the header.

    ``sep=;`` in the first line, blanks around a name, an empty last column without a name, a repeated header, and the title and
    footer lines that the contract declares are no part of the table.

    :raises ExtractRefused: the header or every line is wrong, a quote stands where none may, or the file breaks off.
    """
    delimiter, before, text = _without_title(text, table)
    text, ended = _without_footers(text, table)
    if table.escape:
        text = _hide_escapes(text)
    limit = csv.field_size_limit(MAX_FIELD)  # the module's own and only setting: put back below
    lines = csv.reader((match[0] for match in _LINE.finditer(text)), delimiter=delimiter, strict=True)
    start = before + 1
    rows: _Rows | None = None
    try:
        for fields in lines:
            if fields and rows is None:
                rows = _Rows(fields, shape, start, delimiter)
            elif fields and rows is not None:  # an empty line is no row
                rows.take(fields, start)
            start = before + lines.line_num + 1
    except csv.Error as error:
        if "field larger" in str(error):
            raise too_large(start) from None
        cut = "unexpected end" in str(error)
        raise ExtractRefused(
            "truncated" if cut else "bad_csv",
            "a quote is never closed" if cut else "a quote stands where none may",
            line=start,
            fix=_AGAIN if cut else "quote the field as RFC 4180 says, or declare its `escape`",
        ) from None
    finally:
        csv.field_size_limit(limit)
    if rows is None:
        raise ExtractRefused("empty_file", "there is no header", line=start, fix=_AGAIN)
    rows.check_end(whole=whole)
    if not (whole or ended or table.final_newline == "optional" or text.endswith(("\n", "\r"))):
        raise ExtractRefused(
            "truncated",
            "the last line has no line end, so its last value may be cut",
            line=start - 1,
            fix=f"{_AGAIN}, with a manifest, or declare `final_newline: optional`",
        )
    result = rows.result(start)
    return _with_escapes_shown(result) if table.escape else result


@dataclass(slots=True)
class _Rows:
    """The table as it grows."""

    header: list[str]
    shape: Shape
    start: int
    delimiter: str
    names: list[str] = field(init=False)
    unnamed: int = field(init=False)
    """Empty columns at the end of the header."""
    extra: int | None = None
    """Empty fields at the end of each row; the first row shows how many."""
    height: int = 0
    broken: dict[int, BrokenLine] = field(default_factory=dict)
    at: dict[int, int] = field(default_factory=dict)
    """Position of a broken line → its line number."""
    short: bool = False
    """The last line had too few fields."""
    _waiting: list[Sequence[str | None]] = field(default_factory=list)
    _frames: list[pl.DataFrame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shape.check(0, len(self.header), self.start)
        names = [name.strip() for name in self.header]
        while names and not names[-1]:
            names.pop()
        if not names or not all(names):
            raise ExtractRefused("bad_header", "a column has no name", line=self.start, fix="name every column")
        if len(set(names)) != len(names):
            first = next(n for n, name in enumerate(names) if name in names[:n])
            raise ExtractRefused(
                "duplicate_header",
                f"column {first + 1} has the name of an earlier one",
                line=self.start,
                fix="name each column once",
            )
        self.names, self.unnamed = names, len(self.header) - len(names)

    def take(self, fields: list[str], line: int) -> None:
        if fields == self.header:  # of a file that was put together from several
            return
        width = len(self.names)
        over = len(fields) - width
        if self.extra is None:
            self.extra = self._habit(fields)
        if over == self.extra and (over == 0 or not any(map(str.strip, fields[width:]))):
            self._waiting.append(fields[:width] if over else fields)
        else:
            if over == 0 and self.extra > self.unnamed:  # which of the two is a row with a shifted field?
                raise _ragged(len(fields), width + self.extra, line)
            self.broken[self.height] = BrokenLine("ragged_row", self.delimiter.join(fields))
            self.at[self.height] = line
            if len(self.broken) > MAX_BROKEN:
                raise _ragged(None, width, self.at[min(self.at)])
            self._waiting.append([None] * width)
        self.short = over < 0
        self.height += 1
        if len(self._waiting) * width >= _CHUNK:
            self._flush(line)

    def _habit(self, fields: list[str]) -> int:
        over = len(fields) - len(self.names)
        if not 0 < over <= max(self.unnamed, 1):
            return 0
        if any(map(str.strip, fields[len(self.names) :])):
            if self.unnamed:
                raise ExtractRefused("bad_header", "a column has no name", line=self.start, fix="name every column")
            return 0
        return over

    def check_end(self, *, whole: bool) -> None:
        """:raises ExtractRefused: the last line is cut, or no line is a row."""
        if self.short and not whole:
            line = self.at[self.height - 1]
            raise ExtractRefused("truncated", "the last line has too few fields", line=line, fix=_AGAIN)
        if self.height and len(self.broken) == self.height:
            raise _ragged(None, len(self.names), self.at[0])

    def result(self, line: int) -> Result:
        self._flush(line)
        return Result(pl.concat(self._frames), self.broken)

    def _flush(self, line: int) -> None:
        self.shape.check(self.height, len(self.names), line)
        columns = zip(*self._waiting, strict=True) if self._waiting else [()] * len(self.names)
        self._frames.append(
            pl.DataFrame({name: pl.Series(values, dtype=pl.String) for name, values in zip(self.names, columns, strict=True)})
        )
        self._waiting.clear()


def _ragged(found: int | None, width: int, line: int) -> ExtractRefused:
    many = "another number of" if found is None else str(found)
    return ExtractRefused(
        "ragged_row",
        f"{many} fields where the table has {width}",
        line=line,
        fix="quote fields that hold the delimiter",
    )


def _without_title(text: str, table: Table) -> tuple[str, int, str]:
    """The delimiter (a file may say its own), how many lines stand before the header, and the text from there on."""
    delimiter, before = table.delimiter, 0
    if said := _SEP.match(text):
        delimiter, text, before = said[1], text[said.end() :], 1
    left = table.title_lines
    while left and (line := _LINE.match(text)):
        left -= bool(line[0].strip())
        text, before = text[line.end() :], before + 1
    return delimiter, before, text


def _without_footers(text: str, table: Table) -> tuple[str, bool]:
    """The text without the contract's footers at its end, and whether there was one: then no row of it is cut."""
    found = False
    while table.footer:
        body = text.rstrip("\r\n \t")
        at = max(body.rfind("\n"), body.rfind("\r")) + 1
        if len(body) - at > _LONGEST_FOOTER or not any(fnmatchcase(body[at:].strip(), glob) for glob in table.footer):
            break
        text, found = text[:at], True
    return text, found


def _hide_escapes(text: str) -> str:
    if _BACKSLASH in text or _QUOTE in text:
        raise ExtractRefused("binary", "the file has control characters", fix="deliver text")
    return text.replace("\\\\", _BACKSLASH).replace('\\"', _QUOTE)


def _with_escapes_shown(result: Result) -> Result:
    shown = pl.all().str.replace_all(_BACKSLASH, "\\", literal=True).str.replace_all(_QUOTE, '"', literal=True)
    return Result(result.frame.select(shown), result.broken)
