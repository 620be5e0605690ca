"""The demo's memory figure counts this process and what it started."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from fhir_writeback_dagster.sandbox.memory import PeakMemory

HOLD_100_MB = "import sys; held = bytearray(100_000_000); print('held', flush=True); sys.stdin.read()"


def test_the_peak_stays_when_the_process_that_made_it_is_gone() -> None:
    with PeakMemory(every_s=0.05) as memory:
        child = subprocess.Popen([sys.executable, "-c", HOLD_100_MB], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        alone = psutil.Process().memory_info().rss / 1e6
        deadline = time.monotonic() + 20
        while memory.peak_mb < alone + 90 and time.monotonic() < deadline:
            time.sleep(0.05)
        child.communicate()
        with_child = memory.peak_mb
    assert with_child >= alone + 90
    assert memory.peak_mb >= with_child
