"""The migration runner refuses what would leave two databases of one number."""

from __future__ import annotations

from pathlib import Path

import pytest

from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.store.migrate import migrations


def test_a_gap_or_a_double_number_is_refused(tmp_path: Path) -> None:
    for names in (["0001_a.sql", "0003_b.sql"], ["0001_a.sql", "0001_b.sql"]):
        for name in names:
            (tmp_path / name).write_text("SELECT 1;")
        with pytest.raises(ConfigError, match="bad_migrations"):
            migrations(tmp_path)
        for name in names:
            (tmp_path / name).unlink()


def test_the_shipped_migrations_are_numbered() -> None:
    assert [number for number, _ in migrations()] == list(range(1, len(migrations()) + 1))
