"""How much memory the demo takes at most: resident sets of this process and all that it started, added up once a second."""

from __future__ import annotations

import threading
from typing import Self

import psutil


class PeakMemory:
    """``with PeakMemory() as memory: …`` then ``memory.peak_mb``. Pages that processes share count once for each."""

    def __init__(self, every_s: float = 1.0) -> None:
        self.peak_mb = 0.0
        self._every_s = every_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.is_set():
            self.peak_mb = max(self.peak_mb, _resident_mb())
            self._end.wait(self._every_s)


def _resident_mb() -> float:
    own = psutil.Process()
    total = 0
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue  # it ended meanwhile
    return total / 1e6
