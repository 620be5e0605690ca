"""What a reader makes of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl


class BrokenLine(NamedTuple):
    """A line that is no row: why, as a reason code, and what was delivered, for the source row that is sealed."""

    reason: str
    line: str


@dataclass(frozen=True, slots=True)
class Result:
    """``frame`` has a row for every line, all null where the line is ``broken`` (position in the frame → why)."""

    frame: pl.DataFrame
    broken: Mapping[int, BrokenLine] = field(default_factory=dict)
