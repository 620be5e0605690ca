"""`docs/compatibility.md` is what the matrix says."""

from __future__ import annotations

from pathlib import Path

from fhir_writeback_dagster.rules.target.compatibility import page
from fhir_writeback_dagster.rules.target.matrix import load_vendor, vendors

PAGE = Path(__file__).parents[3] / "docs" / "compatibility.md"


def test_the_page_is_current() -> None:
    made = page(map(load_vendor, vendors()))
    assert PAGE.read_text(encoding="utf-8") == made, (
        "python -m fhir_writeback_dagster.rules.target.compatibility docs/compatibility.md"
    )


def test_every_fact_shows_how_it_is_known_and_what_nobody_knows_is_said_so() -> None:
    made = page([load_vendor("epic")])
    assert "| create.keeps_identifier | no; may drop foreign identifiers | ○ memory |" in made
    assert "| `59141` | duplicate | ◐ page |" in made
    assert "Unknown: " in made
