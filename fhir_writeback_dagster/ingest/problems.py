"""Why a row cannot become a record."""

from __future__ import annotations

from dataclasses import dataclass

from fhir_writeback_dagster.errors import describe


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row cannot become a record: a reason code and the column, never a value."""

    code: str
    column: str
    detail: str = ""
    """Of a defect of ours: class and place of the exception, safe to show."""


def defect(error: Exception, column: str) -> Problem:
    """What nobody foresaw ends the row, and is named so that somebody can fix it."""
    return Problem("defect", column, describe(error))
