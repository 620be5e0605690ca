"""commit's statements longer than a few lines, one a file in `commit/sql`."""

from __future__ import annotations

from typing import LiteralString

from fhir_writeback_dagster.store import sqlfile


def statement(name: str) -> LiteralString:
    """The text of ``commit/sql/<name>.sql``."""
    return sqlfile.statement(__package__, name)
