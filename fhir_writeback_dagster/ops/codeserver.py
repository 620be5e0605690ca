"""A code location's gRPC server whose runs are forked from a warm template: ``python -m …ops.codeserver LAYER PORT``.

Dagster (1.13) starts a new interpreter for each run. That is one to six seconds of imports where the run itself takes a
fraction of one, and more than half of all the processor time that a delivery of a few hundred rows costs (issue 3). Here the
process of a run comes from :mod:`multiprocessing`'s *fork server*: a process of this location, with this location's environment,
that has imported what its runs need, opened nothing, and has no second thread; each run is a fork of it that lives as long
as the run, as before. Where the inside of Dagster's server has moved, runs start from nothing again.

A location that is told to end tells its runs, and waits for them no longer than :data:`GRACE_S`. Dagster's waits without a
word, and a run that waits for a database which ended at the same moment does so for minutes.

What must not be shared after a fork is not made before: keys, nonces and ids come from ``os.urandom`` at each use.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from fhir_writeback_dagster.config.settings import Layer

GRACE_S = 40
"""A run of commit finishes what is in flight (`ehr.timeout`, usually 30 s); killed, it leaves what the next one looks into."""

_PACKAGE = "fhir_writeback_dagster"
_OF_RUNS: dict[Layer, tuple[str, ...]] = {
    "ingest": ("great_expectations",),  # not polars: importing it starts threads, and it is quick
    "decide": (f"{_PACKAGE}.decide.pipeline",),
    "commit": (f"{_PACKAGE}.commit.pipeline", f"{_PACKAGE}.commit.mirror.refresh"),
    "audit": (),
}


def preloaded(layer: Layer) -> list[str]:
    """The modules that a layer's runs find imported. Importing them starts no thread, or a fork could stop in a lock of one."""
    return ["dagster._grpc.impl", "dagster_postgres", f"{_PACKAGE}.locations.{layer}", *_OF_RUNS[layer]]


def main(layer: Layer, port: str) -> None:
    """Serve until a signal ends it."""
    from dagster._cli import main as dagster_command
    from dagster._grpc import server

    from fhir_writeback_dagster.ops.ports import HOST

    context = _forking(layer) if sys.platform == "linux" else None  # elsewhere the system's own libraries are not safe to fork

    class Server(server.DagsterApiServer):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            if context:
                self._mp_ctx: Any = context

        def cleanup(self) -> None:  # called when the location is told to end
            _end(multiprocessing.active_children())
            self._server_termination_event.set()  # what would set it asks a database that may have ended first
            super().cleanup()

    server.DagsterApiServer = Server  # type: ignore[misc]
    module = f"{_PACKAGE}.locations.{layer}"
    sys.argv = ["dagster", "api", "grpc", "-m", module, "--host", HOST, "--port", port]
    sys.argv += ["--location-name", layer, "--log-level", "warning"]
    dagster_command()  # type: ignore[no-untyped-call]


def _end(runs: Sequence[BaseProcess]) -> None:
    for run in runs:
        run.terminate()
    end = time.monotonic() + GRACE_S
    for run in runs:
        run.join(max(0.0, end - time.monotonic()))
        run.kill()


def _forking(layer: Layer) -> BaseContext:
    """What runs are started by, and the template that they are forked from."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start a thread for each core
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preloaded(layer))
    forkserver.ensure_running()
    return context


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
