"""Rows as the bytes of files, as four kinds of sources would write them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fhir_writeback_dagster.sandbox.story.expected import Planted


@dataclass(frozen=True, slots=True)
class File:
    """One file of a delivery; ``rows`` is what a reader must find in it, nothing for a file that must be refused."""

    source: str
    name: str
    data: bytes
    rows: tuple[Planted, ...] = ()

    def drop(self, zone: Path) -> Path:
        """Deliver it into the landing zone by rename, so that no reader ever sees half of it."""
        zone.mkdir(parents=True, exist_ok=True)
        hidden = zone / f".{self.name}.part"
        hidden.write_bytes(self.data)
        return hidden.replace(zone / self.name)


def csv_file(source: str, name: str, rows: Sequence[Planted], *, delimiter: str = ",", line_end: str = "\n") -> File:
    """A CSV file with a header of the first row's columns."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0].columns), delimiter=delimiter, lineterminator=line_end)
    writer.writeheader()
    writer.writerows(row.columns for row in rows)
    return File(source, name, text.getvalue().encode(), tuple(rows))


def jsonl_file(source: str, name: str, rows: Sequence[Planted]) -> File:
    """One JSON object a line; an object has only the columns that its row says."""
    lines = (json.dumps(row.columns, ensure_ascii=False) for row in rows)
    return File(source, name, "".join(f"{line}\n" for line in lines).encode(), tuple(rows))


def truncated(file: File, name: str) -> File:
    """The file as a broken transfer leaves it: cut in the middle of a row."""
    half = len(file.data) // 2
    while file.data[half - 1 : half] in (b"\n", b"\r", b","):
        half -= 1
    return File(file.source, name, file.data[:half])
