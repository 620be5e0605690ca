"""Statements longer than a few lines, one a file in `commit/sql`."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import LiteralString


@cache
def statement(name: str) -> LiteralString:
    """The text of ``commit/sql/<name>.sql``; it ships with the package, so it counts as a literal."""
    return files(__package__).joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
