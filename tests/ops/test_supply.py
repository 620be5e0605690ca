"""`scripts/supply`, as `make lint` runs it: a secret in a tracked file fails it, a service out of reach does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import PROJECT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    for name in ("supply", "accepted_vulnerabilities.txt"):
        shutil.copy(PROJECT / "scripts" / name, tmp_path / "scripts" / name)
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    (tmp_path / "requirements.lock").write_text("click==8.1.8\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def _supply(checkout: Path, text: str) -> subprocess.CompletedProcess[str]:
    (checkout / "settings.py").write_text(text)
    subprocess.run(["git", "add", "settings.py"], cwd=checkout, check=True)
    away = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    command = [checkout / "scripts" / "supply"]
    return subprocess.run(command, env=os.environ | away, capture_output=True, text=True, timeout=200, check=False)


def test_without_the_vulnerability_service_it_says_so_and_goes_on(checkout: Path) -> None:
    done = _supply(checkout, "timeout = 3\n")
    assert done.returncode == 0, done.stderr
    assert "skipped: known vulnerabilities" in done.stdout
    assert "no secret in the tracked files" in done.stdout


def test_a_key_in_a_tracked_file_is_found(checkout: Path) -> None:
    done = _supply(checkout, 'key = "-----BEGIN ' + 'RSA PRIVATE KEY-----"\n')
    assert done.returncode == 1
    assert "settings.py:1" in done.stdout + done.stderr
    assert "[secret]" in done.stderr
