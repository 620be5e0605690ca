"""What sample files look like: format, encoding, delimiter, and of each column what its values can be.

Nothing here is certain; it is what a person who writes a contract would look at first. Values stay in memory: a
profile keeps counts, and of values only words of small vocabularies (units, categories), never an identifier or a free text.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from fhir_writeback_dagster.errors import ConfigError, ExtractRefused
from fhir_writeback_dagster.ingest.contracts.contract import Table
from fhir_writeback_dagster.ingest.contracts.reserved_columns import BROKEN, LINE
from fhir_writeback_dagster.ingest.normalise.dates import Order, parse
from fhir_writeback_dagster.ingest.readers import read as readers
from fhir_writeback_dagster.ingest.readers.compressed import decompress
from fhir_writeback_dagster.rules.fhir import code_systems
from fhir_writeback_dagster.rules.fhir.unit_reading import UnreadableUnit, read_unit

Format = Literal["csv", "jsonl", "parquet", "html", "fhir"]
Encoding = Literal["utf-8", "utf-16", "windows-1252"]

#: Of a column with at most this many different texts, the texts are words; it is told which they are.
FEW = 12
#: Code systems whose form and check digit hardly any other text has.
TELLING = (code_systems.LOINC, code_systems.SNOMED)
#: Code systems that need the column's name too: a year is five digits, and so is a RxNorm code.
LOOSE = (code_systems.ICD_10_CM, code_systems.RXNORM, code_systems.CVX, code_systems.NDC, code_systems.ICD_9_CM, code_systems.CPT)
_ORDERS: tuple[Order, ...] = ("ymd", "dmy", "mdy")
_DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """One column of a table: counts over all rows, and what all of its texts can be read as."""

    name: str
    filled: int
    distinct: int
    rows: int
    numbers: float
    """Share of the filled texts that are plain numbers."""
    decimal_comma: bool
    dates: Mapping[Order | None, float]
    """Order → share of the filled texts that are dates in it; None: without any order."""
    systems: tuple[str, ...]
    """Code systems that every filled text is a code of, the telling ones first."""
    units: Mapping[str, str | None]
    """Filled only where the texts look like units: each with its UCUM code, None where it has none."""
    words: Mapping[str, int]
    """Filled only where a few texts stand again and again: each with its count."""
    loinc: tuple[str, ...]
    """The different LOINC codes, of a column that holds nothing else."""
    cast: int
    """Texts that a float column makes of digits."""
    null_words: tuple[str, ...]

    @property
    def unique(self) -> bool:
        """Whether the column names each row."""
        return self.filled == self.rows == self.distinct and self.rows > 1

    @property
    def looks_like_units(self) -> bool:
        """Whether the texts are units whatever the column's name is: all of them, and not letters alone."""
        return bool(self.units) and None not in self.units.values() and any({"/", "%", "["} & set(text) for text in self.units)


@dataclass(frozen=True, slots=True)
class TableProfile:
    """One file, or several of the same columns."""

    name: str
    files: str
    format: Format
    encoding: Encoding
    delimiter: str
    rows: int
    columns: tuple[ColumnProfile, ...]
    options: Mapping[str, Any]
    """What the table of a contract has to declare so that the file can be read at all."""
    final_newline: bool
    broken: int
    """Lines that are no rows."""


def profile_file(path: Path) -> TableProfile:
    """Read one sample.

    :raises ConfigError: it cannot be read from the disk.
    :raises ExtractRefused: it is no file of its format; what the reader says.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError("file_unreadable", reason, where=str(path), fix="name a file that can be read") from None
    data = decompress(data)
    encoding = _encoding(data)
    form = _format(path, data, encoding)
    shape: dict[str, Any] = {"files": path.name, "format": form, "encoding": encoding}
    if form == "csv":
        shape["delimiter"] = _delimiter(data, encoding)
    frame, more = _read(data, shape)
    broken = 0 if BROKEN not in frame.columns else frame.height - frame[BROKEN].null_count()
    if broken:
        frame = frame.filter(pl.col(BROKEN).is_null())
    frame = frame.drop([name for name in frame.columns if name in {_NOTHING, BROKEN, LINE}])
    return TableProfile(
        name=_name(path),
        files=f"{_stem(path)}*{_suffix(path)}",
        format=form,
        encoding=encoding,
        delimiter=shape.get("delimiter", ","),
        rows=frame.height,
        columns=tuple(_column(frame.get_column(name)) for name in frame.columns),
        options=more,
        final_newline=form != "csv" or data.endswith((b"\n", b"\r")) or encoding == "utf-16",
        broken=broken,
    )


_NOTHING = "no such column"
#: What a CSV file may need to be told, in the order in which it is tried.
_OPTIONS: tuple[dict[str, Any], ...] = ({}, {"escape": "\\"}, *({"title_lines": lines} for lines in range(1, 6)))


def _read(data: bytes, shape: Mapping[str, Any]) -> tuple[pl.DataFrame, Mapping[str, Any]]:
    """All columns as a run would read them, and what the contract has to declare for it.

    :raises ExtractRefused: what the reader says where nothing is declared.
    """
    needed = {"resourceType": "operational"} if shape["format"] == "fhir" else {_NOTHING: "optional operational"}
    refused: ExtractRefused | None = None
    for options in _OPTIONS if shape["format"] == "csv" else _OPTIONS[:1]:
        table = Table.model_validate({**shape, **options, "columns": needed, "rows": [{"not_written": "sample"}]})
        try:
            frame = readers.read(data, table, whole=True)
        except ExtractRefused as error:
            refused = refused or error
            continue
        if not options or frame.width > 2:  # a title and a cut header make a table of one column, and the one that is absent
            return frame, options
    raise refused or ExtractRefused("bad_csv", "no table")


def _encoding(data: bytes) -> Encoding:
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return "utf-16"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "windows-1252"
    return "utf-8"


def _format(path: Path, data: bytes, encoding: Encoding) -> Format:
    if data[:4] == b"PAR1":
        return "parquet"
    head = data[:100_000].decode(encoding, errors="replace").lstrip("\ufeff \t\r\n")
    if head.startswith(("{", "[")):
        return "fhir" if '"resourceType"' in head else "jsonl"
    return "html" if head.startswith("<") or path.suffix.casefold() in {".html", ".htm"} else "csv"


def _delimiter(data: bytes, encoding: Encoding) -> str:
    """The mark that splits the first lines into the same number of fields, the most of them."""
    lines = data[:200_000].decode(encoding, errors="replace").splitlines()[:50]

    def widths(mark: str) -> Counter[int]:
        return Counter(len(row) for row in csv.reader(io.StringIO("\n".join(lines)), delimiter=mark) if row)

    def fit(mark: str) -> tuple[float, int]:
        found = widths(mark)
        width, rows = found.most_common(1)[0] if found else (1, 0)
        return (rows / max(sum(found.values()), 1) if width > 1 else 0.0, width)

    return max(_DELIMITERS, key=fit)


def _suffix(path: Path) -> str:
    """The ending of the file's format, without that of a compressed one."""
    return Path(path.name.removesuffix(".gz").removesuffix(".zip")).suffix


def _stem(path: Path) -> str:
    """The file's name without what changes from one delivery to the next: dates and counters at its end."""
    stem = path.name.removesuffix(".gz").removesuffix(".zip").removesuffix(_suffix(path))
    short = stem.rstrip("0123456789-_.T")
    return short or stem


def _name(path: Path) -> str:
    word = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in _stem(path).casefold()).strip("_")
    return word or "rows"


def _column(series: pl.Series) -> ColumnProfile:
    texts = [text.strip() for text in series.to_list() if text is not None and text.strip()]
    said = [text for text in texts if not code_systems.is_null_word(text)]
    counts = Counter(said)
    numbers = _share(counts, lambda text: _is_number(text) or _is_decimal_comma(text))
    comma = any(map(_is_decimal_comma, counts)) and not any("." in text for text in counts if _is_number(text))
    units = _units(counts) if numbers < 0.5 else {}
    systems = tuple(system for system in (*TELLING, *LOOSE) if counts and all(code_systems.code_of(system, t) for t in counts))
    return ColumnProfile(
        name=series.name,
        filled=len(said),
        distinct=len(counts),
        rows=len(series),
        numbers=numbers,
        decimal_comma=comma,
        dates=_dates(counts),
        systems=systems,
        units=units,
        words=dict(counts.most_common()) if 0 < len(counts) <= FEW and len(said) > len(counts) else {},
        loinc=tuple(counts) if code_systems.LOINC in systems else (),
        cast=sum(count for text, count in counts.items() if code_systems.is_cast_number(text)),
        null_words=tuple(dict.fromkeys(text for text in texts if code_systems.is_null_word(text))),
    )


def _share(counts: Counter[str], holds: Callable[[str], bool]) -> float:
    total = sum(counts.values())
    return sum(count for text, count in counts.items() if holds(text)) / total if total else 0.0


def _is_number(text: str) -> bool:
    return text.lstrip("<>=+-").strip().replace(".", "", 1).isdecimal()


def _is_decimal_comma(text: str) -> bool:
    return text.lstrip("<>=+-").strip().replace(",", "", 1).isdecimal() and "," in text


def _dates(counts: Counter[str]) -> dict[Order | None, float]:
    """The orders in which texts are dates. Plain numbers are none, but for eight digits."""
    texts = [text for text in counts if not (text.isdecimal() and len(text) not in {8, 14})]
    total = sum(counts.values())
    found: dict[Order | None, float] = {}
    for order in (None, *_ORDERS):
        read = parse(texts, order, "UTC")
        good = sum(counts[text] for text, parsed in read.items() if parsed.problem in {None, "dst_gap", "dst_overlap"})
        if total and good:
            found[order] = good / total
    return found


def _units(counts: Counter[str]) -> dict[str, str | None]:
    """Each text with its UCUM code, where at least half of them are units."""
    if not counts or len(counts) > 200:
        return {}
    read: dict[str, str | None] = {}
    for text in counts:
        try:
            read[text] = read_unit(text).code
        except UnreadableUnit:
            read[text] = None
    known = sum(counts[text] for text, code in read.items() if code is not None)
    return read if known * 2 >= sum(counts.values()) else {}


def together(profiles: Iterable[TableProfile]) -> list[TableProfile]:
    """One profile for files that have the same columns in the same format: the first one's, under the pattern of its name."""
    kept: dict[tuple[str, ...], TableProfile] = {}
    for profile in profiles:
        kept.setdefault((profile.format, *(column.name for column in profile.columns)), profile)
    return list(kept.values())
