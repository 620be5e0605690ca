"""A code location's gRPC server whose runs are forked from a warm template: ``python -m …ops.codeserver LAYER SOCKET``.

Dagster (1.13) starts a new interpreter for each run. That is one to six seconds of imports where the run itself takes a
fraction of one, and more than half of all the processor time that a delivery of a few hundred rows costs (issue 3). Here the
process of a run comes from :mod:`multiprocessing`'s *fork server*: a process of this location, with this location's environment,
that has imported what its runs need, opened nothing, and has no second thread; each run is a fork of it that lives as long
as the run, as before. Where the inside of Dagster's server has moved, runs start from nothing again.

A location that is told to end tells its runs, and waits for them no longer than :data:`GRACE_S`. Dagster's waits without a
word, and a run that waits for a database which ended at the same moment does so for minutes.

The server works with this installation's own instance only. Dagster's calls bring the instance that they are about along, as the
classes that it is made of and their configuration, which may name variables of this process; whoever can call could have them
sent to a server of theirs. It also reads no file for a caller.

What must not be shared after a fork is not made before: keys, nonces and ids come from ``os.urandom`` at each use.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from fhir_writeback_dagster.config.settings import Layer
from fhir_writeback_dagster.errors import ConfigError

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
    always = (f"{_PACKAGE}.ops.privacy", "dagster._grpc.impl", "dagster_postgres")
    return [*always, f"{_PACKAGE}.locations.{layer}", *_OF_RUNS[layer]]


def main(layer: Layer, socket: str) -> None:
    """Serve until a signal ends it."""
    from dagster._cli import main as dagster_command
    from dagster._grpc import server

    from fhir_writeback_dagster.ops import privacy  # noqa: F401 - importing it is what it is for

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

        def ExternalNotebookData(self, *_: Any) -> Any:  # noqa: N802 - the name is Dagster's
            raise ConfigError("no_notebooks", "this code location has no notebooks and reads no file for a caller")

    server.deserialize_value = _of_ours()  # type: ignore[attr-defined]
    server.DagsterApiServer = Server  # type: ignore[misc]
    module = f"{_PACKAGE}.locations.{layer}"
    sys.argv = ["dagster", "api", "grpc", "-m", module, "--socket", socket]
    sys.argv += ["--location-name", layer, "--log-level", "warning"]
    dagster_command()  # type: ignore[no-untyped-call]


def _of_ours() -> Callable[..., Any]:
    """Dagster's own reading of the arguments of a call, which refuses those that bring another instance than ``DAGSTER_HOME``'s.

    :raises ConfigError: from what it returns.
    """
    from dagster._core.instance.ref import InstanceRef
    from dagster._serdes import deserialize_value, serialize_value

    ours = deserialize_value(serialize_value(InstanceRef.from_dir(os.environ["DAGSTER_HOME"])), InstanceRef)

    def checked(*args: Any, **kwargs: Any) -> Any:
        value = deserialize_value(*args, **kwargs)
        if getattr(value, "instance_ref", None) not in (None, ours):
            raise ConfigError(
                "foreign_instance",
                "the call is about another Dagster instance than this code location's",
                where=os.environ["DAGSTER_HOME"],
                fix="start Dagster's processes and the code locations with the same DAGSTER_HOME and dagster.yaml",
            )
        return value

    return checked


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
