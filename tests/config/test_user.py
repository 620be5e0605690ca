"""A user without a name or a home folder, as containers have them."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

import pytest

from fhir_writeback_dagster.config.user import cache_folder, current_user


@pytest.mark.parametrize("error", [KeyError("uid not found"), OSError("No username set")])
def test_a_number_without_a_name_is_told_as_that(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def unknown() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", unknown)
    assert current_user() == f"uid {os.getuid()}"


def test_without_a_home_folder_what_is_fetched_goes_below_the_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_folder() == tmp_path / f"fhir-writeback-cache-{os.getuid()}"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "fhir-writeback"
