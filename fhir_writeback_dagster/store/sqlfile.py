"""Statements longer than a few lines: one a file, in the folder ``sql`` of the package that executes them."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import LiteralString


@cache
def statement(package: str, name: str) -> LiteralString:
    """The text of ``<package>/sql/<name>.sql``; it ships with the package, so it counts as a literal."""
    return files(package).joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
