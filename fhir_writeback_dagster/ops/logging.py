"""Logs of ours: one line of known keys, so that a value of a patient cannot ride along in a key that nobody thought of.

A key that is not on the list is dropped and its name told. Texts are ours to write, and never hold a value of a row.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

KEYS = frozenset(
    {
        "event", "level", "timestamp",
        "tenant", "layer", "lane", "run_id", "source", "kind", "resource_type", "target", "vendor",
        "code", "where", "fix", "state", "outcome", "status", "attempt", "count", "rows", "seconds", "bytes",
        "extract_id", "record_id", "candidate_id", "intent_id", "correlation_id", "sha256", "version", "port", "pid", "service",
    }
)  # fmt: skip


def only_known_keys(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor that keeps :data:`KEYS`; ``dropped`` tells the names of the others, never their values."""
    dropped = sorted(key for key in event if key not in KEYS)
    kept = {key: value for key, value in event.items() if key in KEYS}
    return kept | {"dropped": dropped} if dropped else kept


def configure() -> None:
    """Write to stderr from WARNING on, as key=value; httpx would log every URL at INFO, with identifiers in searches."""
    for name in ("httpx", "httpcore", "aiohttp.access", "aiohttp.client"):
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            only_known_keys,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], drop_missing=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
