"""What nobody thought of ends the one thing that it happened to: kept with its place, and without its text.

The text of an exception can quote what it choked on (a payload, an answer), so neither the log nor a task ever holds it.
"""

from __future__ import annotations

import psycopg
import structlog

from fhir_writeback_dagster.commit.protocol.changes import Evidence
from fhir_writeback_dagster.commit.protocol.model import Intent
from fhir_writeback_dagster.errors import ConfigError, LaneHeld, ServiceError, describe, place_of


def ends_the_run(error: BaseException) -> bool:
    """Is ``error`` about the run as a whole: its database, its lane, its settings, a statement or a right that is missing?"""
    if isinstance(error, psycopg.Error):
        return isinstance(error, psycopg.OperationalError) or (error.sqlstate or "").startswith("42")
    return isinstance(error, (ServiceError, LaneHeld, ConfigError, MemoryError)) or not isinstance(error, Exception)


def report_defect(error: Exception, intent: Intent | None = None) -> Evidence:
    """Log where it happened; returns what the intent's task keeps of it."""
    which = {} if intent is None else {"intent_id": str(intent.intent_id)}
    structlog.get_logger().error(describe(error), code="defect", **which)
    return {"error": type(error).__name__, "place": place_of(error)}
