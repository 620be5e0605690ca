"""What the vendor's matrix says of pace and lag counts where the tenant says nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fhir_writeback_dagster.config.tenants import EhrSettings
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.rules.target import matrix
from fhir_writeback_dagster.rules.target.effective_limits import limits_of, quiet_of


def ehr(vendor: str, **more: Any) -> EhrSettings:
    return EhrSettings.model_validate(
        {"base_url": "https://ehr.example/fhir", "auth": {"type": "none"}, "vendor": vendor, **more}
    )


@pytest.mark.parametrize(
    ("vendor", "limits", "second", "minute"),
    [
        ("eclinicalworks", {}, None, 250),
        ("eclinicalworks", {"per_minute": 100}, None, 100),
        ("eclinicalworks", {"per_second": 3}, 3, 250),
        ("eclinicalworks", {"per_minute": None}, None, None),
        ("medplum", {}, None, 6000),
        ("generic", {}, None, None),
        ("generic", {"per_second": 3}, 3, None),
    ],
)
def test_a_tenants_own_limit_wins(vendor: str, limits: dict[str, int | None], second: int | None, minute: int | None) -> None:
    found = limits_of(ehr(vendor, limits={"writes_per_day": 7, **limits}))
    assert (found.per_second, found.per_minute, found.writes_per_day) == (second, minute, 7)


@pytest.mark.parametrize(("lag", "quiet", "effective"), [("20", "5s", 20), ("20", "90s", 90), ("0", "5s", 5), ("0.5", "0s", 0.5)])
def test_a_lag_of_the_searches_lengthens_the_quiet_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lag: str, quiet: str, effective: float
) -> None:
    write_vendor(tmp_path, f"reads: {{search_lag_s: {{value: {lag}, source: us}}}}")
    monkeypatch.setattr(matrix, "VENDORS", tmp_path)
    assert quiet_of(ehr("laggy", quiet=quiet)) == timedelta(seconds=effective)


def test_an_unknown_lag_is_none() -> None:
    assert quiet_of(ehr("healthlake", quiet="5s")) == timedelta(seconds=5)


@pytest.mark.parametrize(
    "windows",
    [
        "[{requests: 10, seconds: 10}]",
        "[{requests: 10, per: hour}]",
        "[{requests: 0, per: minute}]",
        "[{requests: 10, per: minute}, {requests: 20, per: minute}]",
    ],
)
def test_a_window_that_the_engine_cannot_keep_to_is_refused(tmp_path: Path, windows: str) -> None:
    write_vendor(tmp_path, f"limits: {{windows: {{value: {windows}, source: us}}}}")
    with pytest.raises(ConfigError):
        matrix.load_vendor("laggy", tmp_path)


def write_vendor(folder: Path, cells: str) -> None:
    text = f"vendor: laggy\ntitle: Laggy\nsources: {{us: {{known: unverified, what: us}}}}\n{cells}\n"
    (folder / "laggy.yaml").write_text(text)
