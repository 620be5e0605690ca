"""A child process: nothing inherited, nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from support import eventually

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops.process import Child, Program, died, lives

FAMILY = """
    import subprocess, sys, time
    subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"])
    print("up", flush=True)
    time.sleep(600)
"""


def _program(tmp_path: Path, code: str, environment: dict[str, str] | None = None, grace_s: float = 5) -> Program:
    arguments = [sys.executable, "-c", textwrap.dedent(code)]
    return Program("the child", arguments, environment or {}, tmp_path / "child.log", tmp_path, grace_s=grace_s)


def _said(child: Child) -> str:
    assert child.wait(20) is not None
    return child.program.log.read_text()


def test_it_sees_its_own_environment_and_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_ANOTHER_LAYER", "x")
    child = Child(_program(tmp_path, "import os; print(sorted(os.environ))", {"OWN": "1", "LC_ALL": "C"}))
    assert _said(child) == "['LC_ALL', 'OWN']\n"


def test_signals_are_as_new_also_where_the_shell_started_us_with_sigint_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = Child(_program(tmp_path, "import signal; print(signal.getsignal(2), signal.pthread_sigmask(0, []))"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert _said(child) == "<built-in function default_int_handler> set()\n"


def test_stop_ends_what_it_started_too_even_if_that_ignores_the_signal(tmp_path: Path) -> None:
    child = Child(_program(tmp_path, FAMILY))
    eventually(lambda: child.last_words() == "up", "it started its own child")
    family = [psutil.Process(child.pid), *psutil.Process(child.pid).children()]
    assert len(family) == 2
    child.stop()
    assert not any(map(lives, family))


def test_one_that_ignores_the_stop_signal_is_killed_after_its_grace(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    child = Child(_program(tmp_path, code, grace_s=0.3))
    eventually(lambda: child.last_words() == "up", "it is up")
    child.stop()
    assert child.exit_code == -signal.SIGKILL


def test_one_that_died_is_told_of_with_its_last_words_and_its_log(tmp_path: Path) -> None:
    (tmp_path / "child.log").write_text("words of an earlier start\n")
    child = Child(_program(tmp_path, "import sys; print('could not'); sys.exit(3)"))
    assert child.wait(20) == 3
    assert str(died(child)).startswith(f"{tmp_path}/child.log: the child ended with code 3: could not [service_died]")
    silent = Child(_program(tmp_path, "raise SystemExit(1)"))
    assert silent.wait(20) == 1
    assert "it wrote nothing" in str(died(silent))


def test_a_program_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    child = Child(Program("it", ["/nowhere/it"], {}, tmp_path / "it.log", tmp_path))
    assert child.wait(20) == 1
    assert "/nowhere/it: No such file" in child.last_words()


def test_a_log_that_cannot_be_written_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"nowhere/child\.log.*path_unusable"):
        Child(Program("it", [sys.executable], {}, tmp_path / "nowhere" / "child.log", tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
@pytest.mark.parametrize("user", [None, "nobody"])
def test_when_we_are_killed_it_goes_too(tmp_path: Path, user: str | None) -> None:
    if user and os.geteuid() != 0:
        pytest.skip("only root can start a process of another user")
    parent = f"""
        import pwd, time
        from pathlib import Path
        from fhir_writeback_dagster.ops.process import Child, Program, User
        entry = pwd.getpwnam({user!r}) if {user!r} else None
        user = User(entry.pw_name, entry.pw_uid, entry.pw_gid) if entry else None
        log = Path({str(tmp_path / "child.log")!r})
        print(Child(Program("it", ["/bin/sleep", "600"], {{}}, log, Path("/"), user)).pid, flush=True)
        time.sleep(600)
    """
    runner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(parent)], stdout=subprocess.PIPE, text=True)
    assert runner.stdout
    child = psutil.Process(int(runner.stdout.readline()))
    eventually(lambda: child.name() == "sleep", "it is up")
    runner.kill()
    runner.communicate()
    eventually(lambda: not lives(child), "the child ended")
