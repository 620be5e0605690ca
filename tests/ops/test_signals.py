"""Ended once, cleaned up once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from fhir_writeback_dagster.ops.signals import ENDING, Stopped, stoppable, undisturbed


def _do(work: Callable[[], None]) -> None:
    with stoppable():
        work()


def _end(number: int) -> None:
    os.kill(os.getpid(), number)
    while True:  # the handler runs between two steps of the interpreter, so not signal.pause()
        time.sleep(0.01)


@pytest.mark.parametrize("number", ENDING)
def test_the_first_signal_unwinds_and_no_second_one_breaks_the_clean_up_off(number: int) -> None:
    steps = []

    def work() -> None:
        try:
            _end(number)
        finally:
            steps.append("begun")
            for again in ENDING:
                os.kill(os.getpid(), again)
            steps.append("done")

    with pytest.raises(Stopped) as stopped:
        _do(work)
    assert steps == ["begun", "done"]
    assert stopped.value.number == number


def test_afterwards_the_handlers_are_those_of_before() -> None:
    before = [signal.getsignal(number) for number in ENDING]
    with pytest.raises(Stopped):
        _do(lambda: _end(signal.SIGTERM))
    assert [signal.getsignal(number) for number in ENDING] == before


def test_a_signal_waits_for_the_end_of_an_undisturbed_block() -> None:
    steps = []

    def work() -> None:
        with undisturbed():
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append("done")
        steps.append("never")

    with pytest.raises(Stopped):
        _do(work)
    assert steps == ["done"]
