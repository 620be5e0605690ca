"""Why a row cannot become a record."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row cannot become a record: a reason code and the column, never a value."""

    code: str
    column: str
