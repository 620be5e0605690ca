"""Files and references of ours: every complaint says what, where and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from fhir_writeback_dagster.config.secrets import Secret, resolve
from fhir_writeback_dagster.config.tenants import load_tenant, tenant_ids
from fhir_writeback_dagster.errors import ConfigError, SecretError

GOOD = """\
tenant: mercy
time_zone: America/New_York
identifier_system: https://mercy.example/fhir/writeback
ehr:
  base_url: https://ehr.mercy.example/fhir
  auth: {type: none}
keys:
  sealing: env:MERCY_SEALING
  identity: [env:MERCY_IDENTITY]
sources:
  lab: {version: 1, landing: landing/mercy/lab}
mappings: {lab_result: 1}
modes: {default: off}
"""


def write(folder: Path, text: str, name: str = "mercy") -> Path:
    (folder / f"{name}.yaml").write_text(text)
    return folder


def test_a_good_tenant_loads_and_off_stays_a_word(tmp_path: Path) -> None:
    assert load_tenant(write(tmp_path, GOOD), "mercy").modes.of("Observation") == "off"


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("time_zone: America/New_York", "time_zone: Mars/Olympus", 2, "IANA time zone"),
        ("identifier_system: https", "identifier_sistem: https", 1, "identifier_sistem"),
        ("  sealing: env:MERCY_SEALING", "  sealing: hunter2", 8, "secret reference"),
        ("{version: 1, landing", "{version: one, landing", 11, "integer"),
        ("modes: {default: off}", "modes: {default: of}", 13, "'off', 'shadow'"),
        ("mappings: {lab_result: 1}", "mappings: {lab_result: 1", 13, "expected ',' or '}'"),
        ("mappings: {lab_result: 1}", "tenant: mercy", 12, "stands twice"),
    ],
)
def test_a_bad_tenant_file_is_refused_with_its_line(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as raised:
        load_tenant(write(tmp_path, GOOD.replace(old, new)), "mercy")
    assert f"mercy.yaml:{line}:" in str(raised.value)
    assert says in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("tenant", ["../mercy", "..", "Mercy", "", "mercy.yaml", "a/b", "a" * 32])
def test_a_tenant_id_never_becomes_a_path(tmp_path: Path, tenant: str) -> None:
    with pytest.raises(ConfigError, match="bad_tenant_id"):
        load_tenant(write(tmp_path, GOOD), tenant)


def test_an_unknown_tenant_is_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="known tenants: mercy"):
        load_tenant(write(tmp_path, GOOD), "mercury")


def test_a_file_named_otherwise_than_its_tenant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tenant_mismatch"):
        load_tenant(write(tmp_path, GOOD, "other"), "other")


def test_only_files_with_a_tenants_name_are_tenants(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    write(tmp_path, GOOD, "Not A Tenant")
    assert tenant_ids(tmp_path) == ["mercy"]
    assert tenant_ids(tmp_path / "absent") == []


def test_a_missing_secret_names_the_reference(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="env:NO_SUCH_SECRET"):
        resolve("env:NO_SUCH_SECRET", tmp_path)
    with pytest.raises(SecretError, match="file://keys/none"):
        resolve("file://keys/none", tmp_path)


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("hunter2")
    path.chmod(0o644)
    with pytest.raises(SecretError, match="chmod 600") as raised:
        resolve("file://key", tmp_path)
    assert "hunter2" not in str(raised.value)
    path.chmod(0o600)
    assert resolve("file://key", tmp_path).reveal() == b"hunter2"


def test_a_secret_shows_nowhere() -> None:
    secret = Secret(b"hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
    with pytest.raises(SecretError, match="32 bytes") as raised:
        secret.key()
    assert "hunter2" not in str(raised.value)
