"""Does the target as a whole work? What one request shows of it counts for all of a run's."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from fhir_writeback_dagster.commit.fhir_client import Unreadable
from fhir_writeback_dagster.commit.http.transport import NO_TURN, NoAnswer
from fhir_writeback_dagster.errors import TargetError

LEAST_REFUSED = 32
"""So many patients at least are refused in a row before that is a matter of the target: some charts are closed to us."""


@dataclass(slots=True)
class TargetHealth:
    """``trouble``: the target is out of order, so that no more work is taken up.

    ``tolerated`` failures in a row are those of the requests that were in flight together; one more is the target's. A refusal
    is its patient's, unless everybody is refused.
    """

    base_url: str
    tolerated: int
    trouble: TargetError | None = None
    _failed_writes: int = 0
    _failed_reads: int = 0
    _served: bool = False
    _refused: set[str] = field(default_factory=set)
    _refusal: TargetError | None = None

    def wrote(self) -> None:
        """It answered a write, with something that is about the write and not about itself."""
        self._failed_writes = 0
        self.read()

    def read(self) -> None:
        """It showed what was asked for of a patient."""
        self._failed_reads = 0
        self._served = True
        self._refused.clear()

    def failed(self, code: str) -> None:
        """A write came to nothing."""
        if code not in NO_TURN:
            self._failed_writes += 1
            self._open_circuit(code)

    def unread(self, error: TargetError | NoAnswer, patient_id: str) -> bool:
        """A read about a patient came to nothing. True: as far as can be told that is this patient's matter, because the EHR
        refuses it, or because it is silent about this one and answers about others.
        """
        structlog.get_logger().warning("a read came to nothing", code=error.code)
        if isinstance(error, NoAnswer) or (isinstance(error, Unreadable) and not error.refused):
            self._failed_reads += 1
            self._open_circuit(error.code)
            return self._served and self.trouble is None
        if not isinstance(error, Unreadable):  # no token, or an address that is not allowed
            self.trouble = error
            return False
        self._refused.add(patient_id)
        self._refusal = error
        if len(self._refused) > max(4 * self.tolerated, LEAST_REFUSED):
            self.trouble = error
        return True

    def conclude(self) -> None:
        """The run ends: was everybody refused?"""
        if self.trouble is None and not self._served and len(self._refused) > 1:
            self.trouble = self._refusal

    def _open_circuit(self, code: str) -> None:
        """So many requests in a row came to nothing that it is not they who are at fault: the target is down or shuts us out,
        and every further request would make an unknown of a write, or a quarantine item of a good one.
        """
        if self._failed_writes + self._failed_reads > self.tolerated:
            self.trouble = TargetError(
                code,
                "the EHR answers nothing, or refuses everything",
                where=self.base_url,
                fix="nothing is lost: what may have arrived is looked up, the rest is sent when the EHR is back",
            )
