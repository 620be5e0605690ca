"""A drill's commit worker that is wrong in one thing: what may have been sent is sent again, and nobody looks before."""

from __future__ import annotations

import sys
from pathlib import Path

from fhir_writeback_dagster.commit.engine import sending
from fhir_writeback_dagster.commit.protocol import error_classes, transitions
from fhir_writeback_dagster.commit.protocol.transitions import Event, State
from fhir_writeback_dagster.sandbox.drills import worker

setattr(sending, "unanswered_outcome", lambda *_, **__: error_classes.NOT_SENT)  # noqa: B010 - not an export
transitions.TABLE[State.SENDING, Event.EXPIRE] = (State.READY, ())
worker.main(Path(sys.argv[1]), sys.argv[2])
