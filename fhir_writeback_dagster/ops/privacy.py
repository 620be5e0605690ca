"""What a process with keys and patients' data keeps to itself: no core dumps, no memory to read, no text of a library in its log.

Importing it says so for the process that imports it, and for all that are forked from it: the template of a location's runs
(``ops.codeserver``) can be told nothing but what to import. On Linux ``/proc/<pid>/environ`` and ``ptrace`` are closed by it to
every process but root's, also to those of the same user.
"""

from __future__ import annotations

import ctypes
import resource
import sys

from fhir_writeback_dagster.orchestration.logs import configure, hide_foreign_texts

_PR_SET_DUMPABLE = 4  # <linux/prctl.h>

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if sys.platform == "linux":
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
configure("json")
hide_foreign_texts()
