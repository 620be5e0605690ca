"""What nobody thought of ends the one item that it happened to, and is kept with its place and without its text."""

from __future__ import annotations

import structlog

from fhir_writeback_dagster.commit.protocol.model import Intent
from fhir_writeback_dagster.errors import describe

DEFECTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What an answer, or a resource in the chart, that nobody thought of can make us raise: one must not stop the others."""


def report_defect(error: Exception, intent: Intent) -> str:
    """Log where it happened (no value is in that line); returns the code that the intent gets."""
    structlog.get_logger().error(describe(error), code="defect", intent_id=str(intent.intent_id))
    return "defect"
