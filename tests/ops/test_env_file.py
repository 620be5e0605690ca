"""`.env` is read by every command of ours, and by no process of Dagster's."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import PROJECT, make_home, write_tenant

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops.configuration import load_configuration
from fhir_writeback_dagster.ops.environment import layer_secrets, write_layer_file
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.postgres import forget

BIN = Path(sys.executable).parent
KEY = base64.b64encode(bytes(32)).decode()
EHR_KEY = "the-ehrs-client-secret"
SEEN = "import os, json, sys; print(json.dumps([dict(os.environ), os.getcwd()]))"
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("FHIR_WRITEBACK_", "DAGSTER_"))}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    make_home(tmp_path)
    write_tenant(
        tmp_path,
        "mercy",
        {
            "keys": {"sealing": "env:MERCY_SEALING", "identity": ["env:MERCY_IDENTITY"]},
            "ehr": {"auth": {"type": "client_secret", "client_id": "c", "client_secret": "env:MERCY_EHR"}},
        },
    )
    path = tmp_path / ".env"
    path.touch(mode=0o600)
    path.write_text(
        f"MERCY_SEALING={KEY}\nMERCY_IDENTITY={KEY}\nMERCY_EHR={EHR_KEY}\nFHIR_WRITEBACK_COMMIT__OTHER=x\n"
        "FHIR_WRITEBACK_PORT_POSTGRES=0\nFHIR_WRITEBACK_PORT_WEB=0\n"
    )
    return tmp_path


def _cli(project: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "fhir-writeback"), *arguments]
    return subprocess.run(command, cwd=project, env=CLEAN | more, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.timeout(400)
def test_a_command_that_works_as_a_layer_finds_its_keys_in_the_env_file(project: Path) -> None:
    shown = _cli(project, "target", "show", "mercy")
    assert shown.returncode == 0, shown.stderr
    probed = _cli(project, "target", "probe", "mercy")
    assert "is not set" not in probed.stderr, probed.stderr  # the EHR does not answer: that is as far as it can come
    forget(project)


@pytest.mark.timeout(400)
def test_dagsters_commands_get_nothing_of_it(project: Path) -> None:
    done = _cli(project, "exec", "--", sys.executable, "-c", SEEN, MERCY_EHR=EHR_KEY)
    assert done.returncode == 0, done.stderr
    environment, folder = json.loads(done.stdout.splitlines()[-1])
    assert EHR_KEY not in json.dumps(environment)
    assert KEY not in json.dumps(environment)
    assert not (Path(folder) / ".env").exists(), "Dagster's commands would read it there"
    forget(project)


@pytest.mark.parametrize(
    "command", [["dagster", "definitions", "validate"], ["dagster", "dev"], ["dagster-daemon", "run"], ["dagster-webserver"]]
)
def test_dagster_by_hand_in_the_projects_folder_says_that_it_holds_keys_and_does_not_start(
    project: Path, command: list[str]
) -> None:
    for name in ("dagster.yaml", "workspace.yaml"):
        (project / name).symlink_to(PROJECT / name)
    with (project / ".env").open("a") as file:
        file.write("FHIR_WRITEBACK_DSN_DAGSTER=postgresql://dagster:x@127.0.0.1:1/dagster\n")
    done = subprocess.run(
        [BIN / command[0], *command[1:]],
        cwd=project,
        env=CLEAN | {"DAGSTER_HOME": str(project)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "[secrets_in_dagster]" in done.stderr, done.stderr
    assert "fhir-writeback exec" in done.stderr
    assert EHR_KEY not in done.stderr + done.stdout


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_an_env_file_that_others_may_read_is_refused(project: Path, mode: int) -> None:
    (project / ".env").chmod(mode)
    with pytest.raises(ServiceError, match=r"\.env: others than its owner may read it \[exposed\] — chmod 600"):
        load_configuration(project, {})
    done = _cli(project, "status")
    assert done.returncode == 2
    assert "[exposed]" in done.stderr


@pytest.mark.parametrize("part", ["", "env"])
def test_a_state_folder_that_others_may_enter_is_refused(tmp_path: Path, part: str) -> None:
    folder = StateFolder(tmp_path).folder("env") if part else StateFolder(tmp_path).path
    folder.chmod(0o750)
    with pytest.raises(ServiceError, match=r"\[exposed\] — chmod 700"):
        StateFolder(tmp_path).folder(*filter(None, [part]))


def test_files_of_passwords_that_others_may_read_are_refused(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    state.passwords("x")
    (state.path / "passwords.json").chmod(0o644)
    with pytest.raises(ServiceError, match=r"passwords\.json.*\[exposed\] — chmod 600"):
        state.passwords("x")
    write_layer_file(state, "commit", {"A": "b"})
    (state.path / "env" / "commit.env").chmod(0o644)
    with pytest.raises(ServiceError, match=r"commit\.env.*\[exposed\]"):
        layer_secrets(load_configuration(tmp_path, {}), state, "commit", [])
