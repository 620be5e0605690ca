"""What a process with secrets says to the kernel: no core dumps, and no other process of the same user reads its memory.

Importing it says so for the process that imports it, and for all that are forked from it: the template of a location's runs
(``ops.codeserver``) can be told nothing but what to import. On Linux ``/proc/<pid>/environ`` and ``ptrace`` are closed by it to
every process but root's; elsewhere only core dumps are off.
"""

from __future__ import annotations

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4  # <linux/prctl.h>

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if sys.platform == "linux":
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
