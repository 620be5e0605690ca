"""The command line: results on stdout, one line for an error with place and fix, and never a traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import make_home, write_tenant

from fhir_writeback_dagster.ops.configuration import ANY_PORT
from fhir_writeback_dagster.ops.ports import HOST
from fhir_writeback_dagster.ops.postgres import forget

BIN = Path(sys.executable).parent
FREE_PORTS = {f"FHIR_WRITEBACK_PORT_{name.upper()}": "0" for name in ANY_PORT}


def cli(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [BIN / "fhir-writeback", *arguments],
        cwd=home,
        env=os.environ | FREE_PORTS | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def error_of(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(lines), done.stdout) == (code, 1, ""), done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose tenants have no EHR that answers; one lacks a secret, one the contract of its source."""
    home = make_home(tmp_path_factory.mktemp("project"))
    write_tenant(home, "silent")
    write_tenant(home, "keyless", {"keys": {"sealing": "env:KEYLESS_SEALING"}})
    unwritten = {"version": 99, "landing": "landing/uncontracted"}
    write_tenant(home, "uncontracted", {"sources": {"synthea_csv": unwritten}})
    yield home
    forget(home)


def test_a_folder_that_is_no_project_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    assert "no_project" in error_of(cli(tmp_path, "status"))
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_refused_by_name_and_number(project: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        error = error_of(cli(project, "up", FHIR_WRITEBACK_PORT_POSTGRES=port))
    assert f"port {port} for PostgreSQL is in use [port_taken]" in error


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    make_home(tmp_path)
    (tmp_path / ".fhir-writeback").touch()
    assert f"{tmp_path}/.fhir-writeback: " in error_of(cli(tmp_path, "run"))


def test_a_bad_tenant_id_never_becomes_a_path(project: Path) -> None:
    error = error_of(cli(project, "run", "--tenant", "../../etc/passwd"))
    assert "unknown_tenant" in error
    assert "known: keyless, silent, uncontracted" in error


def test_databases_that_do_not_answer_and_half_a_configuration_are_told_of(project: Path) -> None:
    assert "FHIR_WRITEBACK_DSN_STATUS" in error_of(
        cli(project, "status", FHIR_WRITEBACK_DSN_INGEST="postgresql://x@127.0.0.1:1/x")
    )
    logins = ("INGEST", "DECIDE", "COMMIT", "AUDIT", "STATUS", "DAGSTER")
    secret = {f"FHIR_WRITEBACK_DSN_{login}": "postgresql://x:hush@127.0.0.1:1/x" for login in logins}  # pragma: allowlist secret
    done = cli(project, "status", **secret)
    assert "PostgreSQL does not answer [database_unreachable]" in error_of(done)
    assert "hush" not in done.stderr


@pytest.mark.timeout(600)
def test_a_run_tells_of_each_lane_that_failed_and_the_others_go_on(project: Path) -> None:
    done = cli(project, "run", "--json")
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    failures = "\n".join(result["failures"])
    assert "keyless: ingest: env:KEYLESS_SEALING is not set in this process [secret_missing]" in failures
    assert "keyless: mirror: env:KEYLESS_SEALING" in failures
    assert "silent: mirror: " in failures  # its EHR is down
    assert "silent: ingest" not in failures
    assert "silent: ingest done" in done.stderr
    assert result["ok"] is False
    assert result["tenants"]["silent"]["rows"] == 0


@pytest.mark.timeout(600)
def test_an_invalid_contract_and_refused_extracts_are_said_by_run_and_status(project: Path) -> None:
    (project / "landing/silent/synthea_csv/unheard_of.csv").write_text("a,b\n1,2\n")
    (project / "landing/silent/synthea_csv/conditions.csv").write_text("START,STOP\n1,2\n")
    said = [cli(project, "run", "--json"), cli(project, "status", "--json")]
    for done in said:
        assert done.returncode == 1, done.stderr
        result = json.loads(done.stdout)
        assert result["ok"] is False
        assert any("no such version [unknown_source_version]" in failure for failure in result["failures"])
        refusals = result["tenants"]["silent"]["refusals"]
        assert [(one["source"], one["reason"], one["line"]) for one in refusals] == [
            ("synthea_csv", "missing_column", 1),
            ("synthea_csv", "no_table", None),
        ]
    people = cli(project, "status")
    assert people.returncode == 1
    assert "synthea_csv, version 1: missing_column 1, line 1" in people.stdout
    assert "unknown_source_version" in people.stderr


@pytest.mark.timeout(600)
def test_dagsters_own_tools_work_beside_the_services(project: Path) -> None:
    """`dagster definitions validate` with the shipped workspace.yaml and dagster.yaml, all four locations."""
    workspace = str(Path(__file__).resolve().parents[2] / "workspace.yaml")
    done = cli(project, "exec", "--", "dagster", "definitions", "validate", "-w", workspace)
    assert done.returncode == 0, done.stdout + done.stderr
    for layer in ("ingest", "decide", "commit", "audit"):
        assert f"Validation successful for code location {layer}" in done.stdout + done.stderr


def test_without_our_environment_dagsters_tools_say_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    for name in ("dagster.yaml", "workspace.yaml"):
        (tmp_path / name).symlink_to(root / name)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FHIR_WRITEBACK_", "DAGSTER_"))}
    done = subprocess.run(
        [BIN / "dagster", "definitions", "validate"], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "FHIR_WRITEBACK_DSN_DAGSTER" in last
    assert "`fhir-writeback exec -- dagster …`" in last
    assert "Traceback" not in done.stderr


LAYERS = ["mapping diff", "mapping dry-run", "match evaluate", "mode show", "policy diff", "policy test", "shadow", "validate"]


@pytest.mark.parametrize("name", LAYERS)
def test_the_layers_own_commands_are_there(project: Path, name: str) -> None:
    done = cli(project, *name.split(), "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


def test_a_command_that_is_not_installed_is_told_of(project: Path) -> None:
    error = error_of(cli(project, "exec", "--", "dagstre", "dev"))
    assert "dagstre: No such file or directory [command_missing]" in error


def test_a_command_that_is_not_there_is_told_of(project: Path) -> None:
    done = cli(project, "nonsense")
    assert done.returncode == 2
    assert "No such command 'nonsense'" in done.stderr
