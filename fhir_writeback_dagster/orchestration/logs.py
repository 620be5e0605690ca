"""Logs of ours: lines of known keys, so that a value of a patient cannot ride along in a key that nobody thought of.

A key that is not on the list is dropped and its name told. Texts are ours to write, and never hold a value of a row. Whoever logs
takes ``structlog.get_logger()``; where the lines go is settled here, once a process: as text to a terminal, as JSON to stderr
in the processes of the layers, and, during a run, to the run's own page in Dagster as well.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import structlog

from fhir_writeback_dagster.errors import describe

KEYS = frozenset(
    {
        "event", "level", "timestamp",
        "tenant", "layer", "lane", "run_id", "source", "kind", "resource_type", "target", "vendor",
        "code", "where", "fix", "state", "outcome", "status", "attempt", "count", "rows", "seconds", "bytes",
        "extract_id", "record_id", "candidate_id", "intent_id", "correlation_id", "sha256", "version", "port", "pid", "service",
    }
)  # fmt: skip

MOST_LINES = 200
"""Lines of one run that its page in Dagster shows. A line is a row of Dagster's database; the process's own log has them all."""

Show = Callable[[str, str], object]


@dataclass(slots=True)
class _Run:
    """The run that this process is now: what is said of it in each line, and how its page is told of one."""

    said: dict[str, str]
    show: Show
    lines: int = 0


_TEXT = structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], drop_missing=True)
_PAGE = structlog.processors.LogfmtRenderer(key_order=["event"], drop_missing=True)
_run: _Run | None = None  # of the whole process, not of a context: threads that a library starts know no context


def only_known_keys(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor that keeps :data:`KEYS`; ``dropped`` tells the names of the others, never their values."""
    dropped = sorted(key for key in event if key not in KEYS)
    kept = {key: value for key, value in event.items() if key in KEYS}
    return kept | {"dropped": dropped} if dropped else kept


def configure(form: Literal["text", "json"] = "text") -> None:
    """Write to stderr from INFO on; httpx would log every URL at INFO, with identifiers in searches."""
    for name in ("httpx", "httpcore", "aiohttp.access", "aiohttp.client"):
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _of_the_run,
            only_known_keys,
            _to_its_page,
            structlog.processors.JSONRenderer() if form == "json" else _TEXT,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=_stderr,
        cache_logger_on_first_use=False,
    )


@contextmanager
def run_log(show: Show, **said: str) -> Iterator[None]:
    """While the block runs each line says ``said`` (run_id, tenant, …), and ``show(level, text)`` gets it for the run's page."""
    global _run  # noqa: PLW0603 - one process is one run
    if not structlog.is_configured():
        configure("json")
    before, _run = _run, _Run(said, show)
    try:
        yield
    finally:
        _run = before


def hide_foreign_texts() -> None:
    """In a process that works with patients' data: of what libraries log, warn of or leave unhandled, the place is kept only.

    Their texts may quote what they choked on. Dagster's own loggers are left as they are: what reaches them is ours.
    """
    handler = _PlaceOnly(logging.WARNING)
    logging.getLogger().addHandler(handler)
    warnings.showwarning = lambda _, category, filename, lineno, *__, **___: _warned(category, filename, lineno)
    threading.excepthook = lambda unhandled: _unhandled(unhandled.exc_value)
    sys.excepthook = _ended_by
    sys.unraisablehook = lambda unhandled: _unhandled(unhandled.exc_value)


class _PlaceOnly(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(("dagster", "grpc")):
            error = record.exc_info[1] if record.exc_info else None
            told = describe(error) if error else "a library logged something"
            structlog.get_logger().warning(told, service=record.name, where=f"{record.module}:{record.lineno}")


def _warned(category: type[Warning], filename: str, lineno: int) -> None:
    structlog.get_logger().warning("a library warned", code=category.__name__, where=f"{filename.rpartition('/')[2]}:{lineno}")


def _unhandled(error: BaseException | None) -> None:
    if error is not None and not isinstance(error, SystemExit | asyncio.CancelledError):
        structlog.get_logger().error(describe(error), code="unhandled")


def _ended_by(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    _unhandled(error)


def _stderr(*_: object) -> structlog.PrintLogger:
    return structlog.PrintLogger(sys.stderr)


def _of_the_run(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return event if _run is None else {**_run.said, **event}


def _to_its_page(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    run = _run
    if run is not None and run.lines <= MOST_LINES:
        run.lines += 1
        own = {key: value for key, value in event.items() if key not in run.said and key not in {"level", "timestamp"}}
        text = str(_PAGE(None, "", own)) if run.lines <= MOST_LINES else "more lines of this run are in its layer's own log"
        run.show(str(event["level"]), text)
    return event
