"""How a person or a service manager ends us: Ctrl-C, SIGTERM and a closed terminal all unwind the same way, once.

The handlers are installed also where the shell started us with SIGINT ignored (``cmd &`` in a script): whoever sends it then
means us.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """We were asked to end; ``number`` is the signal."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


class _Ending:
    """Signals of one process. Its state is Python's own, not a signal mask: that of one thread does not bind the others."""

    def __init__(self) -> None:
        self.depth = 0
        self.asked: int | None = None
        self.told = False

    def handle(self, number: int, _: FrameType | None) -> None:
        # Once is enough: `timeout` and `make` both pass a signal on, and a second one would break the clean-up off half-way.
        if self.asked is None:
            self.asked = number
        self.tell()

    def tell(self) -> None:
        if self.asked is not None and not self.told and self.depth == 0:
            self.told = True
            raise Stopped(self.asked)


_ending = _Ending()


@contextmanager
def stoppable() -> Iterator[None]:
    """The first ending signal raises :class:`Stopped` in the main thread while the block runs; more are ignored.

    What is to be ended is ended within a minute; who cannot wait has SIGKILL, and the death signal does the rest.
    """
    before = {number: signal.signal(number, _ending.handle) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _ending.asked, _ending.told = None, False


@contextmanager
def undisturbed() -> Iterator[None]:
    """An ending signal waits until the block is done: for a start that must be remembered and an end that must be complete."""
    _ending.depth += 1
    try:
        yield
    finally:
        _ending.depth -= 1
        _ending.tell()
