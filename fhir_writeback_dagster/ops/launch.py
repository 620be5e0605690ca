"""Become another program, cleanly: run as ``python -I -S launch.py <parent pid> <uid|-> <death signal> program …``.

A child of the runner starts here, and not by ``preexec_fn`` (not safe beside threads), because these must be said
between fork and exec:

* SIGINT back to its default: a shell starts ``cmd &`` with SIGINT ignored, and a ``dagster api grpc`` that inherits that
  ignores SIGTERM as well.
* The signal that the kernel sends when the runner dies, also by ``kill -9`` (Linux only). It is said after the change of
  user, which clears it, and the parent is looked at once more afterwards: it may have died in between.
* Another user, where the runner is root.
* No core dumps: the memory of a layer holds keys and values of patients.

Standard library only: it starts in about 15 ms.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def _die_with_parent(parent: int, death_signal: int) -> None:
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")


def main(arguments: list[str]) -> None:
    parent, user, death_signal, *program = arguments
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if user != "-":
        uid, gid = (int(part) for part in user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    _die_with_parent(int(parent), int(death_signal))
    try:
        os.execv(program[0], program)  # noqa: S606 - no shell: the runner's own list of arguments
    except OSError as error:
        sys.exit(f"{program[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
