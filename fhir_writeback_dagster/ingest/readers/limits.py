"""What one extract may cost, checked before anything is built of it.

A small file can ask for much: 40 KB of Parquet say a hundred million rows, a line of JSON may bring a new column each. So every
reader counts rows, columns and cells as it goes, and refuses. The limits are above what any source has (a year of a hospital's
laboratory in one file), and a file under 1 MB costs at most a second and 300 MB (tests/ingest/test_costs.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fhir_writeback_dagster.errors import ExtractRefused

#: A longer value is no field of ours: US Core servers promise 5 MiB inline (US Core, writing clinical notes).
MAX_FIELD = 5 * 1024 * 1024
#: Bytes as delivered, and as they are when decompressed.
MAX_FILE = 512 * 1024 * 1024
MAX_ROWS = 1_000_000
MAX_COLUMNS = 2_000
MAX_CELLS = 16_000_000
#: Lines that are no row, until the file is none of its table.
MAX_BROKEN = 10_000
#: Of objects and arrays in one another; FHIR's deepest (a Questionnaire of four levels) needs about 20.
MAX_DEPTH = 64

_IN_PARTS = "deliver it in parts"


@dataclass(slots=True)
class Shape:
    """Counts what is made of one file. ``cells`` is how many cells the file may have: a cell costs the sender a byte at least,
    unless columns that most rows leave out, or one dictionary for all rows, make more of them.
    """

    cells: int
    max_columns: int = MAX_COLUMNS

    @classmethod
    def of(cls, delivered: int, decoded: int | None = None) -> Shape:
        """For a file of so many bytes, and so many when decompressed."""
        size = delivered if decoded is None else min(decoded, 4 * delivered)
        return cls(min(MAX_CELLS, 1_000_000 + size))

    def check(self, rows: int, columns: int, line: int | None = None) -> None:
        """:raises ExtractRefused: too wide, too long, or too many cells; ``line`` is where that was seen."""
        if columns > self.max_columns:
            raise ExtractRefused("too_wide", f"more than {self.max_columns} columns", line=line, fix="deliver fewer columns")
        if rows > MAX_ROWS:
            raise ExtractRefused("too_long", f"more than {MAX_ROWS} rows", line=line, fix=_IN_PARTS)
        if rows * columns > self.cells:
            raise ExtractRefused("too_many_cells", f"more than {self.cells} cells for its size", line=line, fix=_IN_PARTS)


def deeper(value: Any, most: int = MAX_DEPTH) -> bool:
    """Whether objects and arrays of a JSON value lie more than ``most`` deep in one another."""
    if not isinstance(value, dict | list):
        return False
    return most == 0 or any(deeper(part, most - 1) for part in (value.values() if isinstance(value, dict) else value))


def too_deep(line: int | None = None) -> ExtractRefused:
    return ExtractRefused("too_deep", f"parts lie more than {MAX_DEPTH} deep in one another", line=line, fix="deliver it flat")


def too_large(line: int) -> ExtractRefused:
    return ExtractRefused(
        "field_too_large", f"a field is longer than {MAX_FIELD >> 20} MiB", line=line, fix="deliver such documents by reference"
    )
