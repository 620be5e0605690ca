"""What a fresh clone stands on: the lock, the bootstrap and the shipped configuration of Dagster."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text()


def test_the_lock_holds_hashes_for_every_package_and_no_address() -> None:
    pins = re.findall(r"(?m)^([a-z0-9][a-z0-9._-]*(?:\[[^\]]*\])?)==", LOCK)
    blocks = re.split(r"(?m)^(?=[a-z0-9])", LOCK)[1:]
    assert len(pins) == len(blocks) > 100
    assert not [block.split("==")[0] for block in blocks if "--hash=sha256:" not in block]
    assert not re.findall(r"https?://|--index-url|--extra-index-url|--find-links", LOCK)


def test_the_lock_holds_everything_that_the_project_names_and_its_build_backend() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"], *(d for e in extras for d in e)]
    names = {re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-").replace(".", "-") for requirement in wanted}
    locked = {name.replace(".", "-") for name in re.findall(r"(?m)^([a-z0-9._-]+)==", LOCK)}
    assert not names - locked


def _bootstrap(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "bootstrap").write_bytes((ROOT / "scripts" / "bootstrap").read_bytes())
    return subprocess.run(
        ["/bin/sh", tmp_path / "scripts" / "bootstrap"], env=environment, capture_output=True, text=True, check=False, cwd="/"
    )


def test_without_a_suitable_python_the_bootstrap_says_so_and_makes_nothing(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "dirname").symlink_to("/usr/bin/dirname")
    old = tools / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = _bootstrap(tmp_path, PATH=str(tools))
    assert done.returncode == 2
    assert "no Python 3.11 to 3.14 on PATH [no_python]" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_named_python_that_does_not_suit_is_refused_by_its_name(tmp_path: Path) -> None:
    done = _bootstrap(tmp_path, PATH=os.environ["PATH"], PYTHON="/bin/false")
    assert done.returncode == 2
    assert "PYTHON=/bin/false is not a Python 3.11 to 3.14" in done.stderr


@pytest.mark.parametrize("name", ["dagster.yaml", "workspace.yaml"])
def test_the_shipped_configuration_of_dagster_holds_no_secret_and_no_address(name: str) -> None:
    text = (ROOT / name).read_text()
    assert yaml.safe_load(text)
    assert "postgresql://" not in text
    assert "password" not in text
