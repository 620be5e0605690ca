"""One child process of the runner: its own session, its own environment and log, and gone when the runner says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops.folder import unusable

_LAUNCH = str(Path(__file__).with_name("launch.py"))


@dataclass(frozen=True, slots=True)
class User:
    """An operating system user that a child runs as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Program:
    """What to start. ``environment`` is the whole of it: nothing of the runner's own is inherited."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    log: Path
    cwd: Path
    user: User | None = None
    stop_signal: int = signal.SIGTERM
    grace_s: float = 10.0


class Child:
    """A started :class:`Program`. Start it from the main thread: the death signal is bound to the thread that forked."""

    def __init__(self, program: Program) -> None:
        """:raises ServiceError: its log or working folder cannot be used."""
        self.program = program
        user = f"{program.user.uid}:{program.user.gid}" if program.user else "-"
        interpreter = [sys.executable, "-I", "-S", _LAUNCH]
        try:
            descriptor = os.open(program.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(program.log, error) from None
        with os.fdopen(descriptor, "ab") as log:
            self._log_start = log.tell()
            try:
                self._process = subprocess.Popen(  # noqa: S603 - the runner's own list of arguments, no shell
                    [*interpreter, str(os.getpid()), user, str(int(program.stop_signal)), *program.argv],
                    env=dict(program.environment),
                    cwd=program.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise unusable(program.cwd, error) from None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it lives; negative: the signal that ended it."""
        return self._process.poll()

    def last_words(self) -> str:
        """The last line that it wrote to its log since it was started; empty if none."""
        try:
            with self.program.log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, size - 8192))
                lines = log.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code, or None if it still lives after ``timeout_s``."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def ask_to_stop(self) -> None:
        """Send the stop signal, and to what it started the same; returns at once."""
        if self.exit_code is None:
            self._process.send_signal(self.program.stop_signal)

    def stop(self) -> None:
        """Ask, wait ``grace_s``, kill. When it returns the process and everything in its session are gone."""
        self.ask_to_stop()
        if self.wait(self.program.grace_s) is None:
            self._process.kill()
            self._process.wait()
        rest = list(_session(self.pid))
        _signal_all(rest, signal.SIGTERM)
        if not _gone(rest, 5.0):
            _signal_all(rest, signal.SIGKILL)
            _gone(rest, 5.0)


def _session(leader: int) -> Iterator[psutil.Process]:
    """Living processes of the session that ``leader`` began, also where it is dead itself."""
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.pid != leader:
                yield process
        except (ProcessLookupError, PermissionError):
            continue


def _signal_all(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue


def _gone(processes: Sequence[psutil.Process], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while any(map(lives, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def lives(process: psutil.Process) -> bool:
    """A zombie does not: in a container whose first process reaps nobody it would stay for ever."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def died(child: Child) -> ServiceError:
    """The error that tells of a child that ended by itself."""
    words = child.last_words() or "it wrote nothing"
    return ServiceError(
        "service_died",
        f"{child.program.name} ended with code {child.exit_code}: {words}",
        where=str(child.program.log),
        fix="the log has the rest",
    )
