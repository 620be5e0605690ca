"""Does the target as a whole work? What one request shows of it counts for all of a run's."""

from __future__ import annotations

from dataclasses import dataclass

from fhir_writeback_dagster.commit.fhir_client import Unreadable
from fhir_writeback_dagster.commit.http.transport import NO_TURN, NoAnswer
from fhir_writeback_dagster.commit.protocol.error_classes import Recovery
from fhir_writeback_dagster.errors import TargetError


@dataclass(slots=True)
class TargetHealth:
    """``trouble``: the target is out of order, so that no more work is taken up.

    ``tolerated`` failures in a row are those of the requests that were in flight together; one more is the target's.
    """

    base_url: str
    tolerated: int
    trouble: TargetError | None = None
    _failures: int = 0

    def served(self) -> None:
        """It answered something that is about the request, and not about itself."""
        self._failures = 0

    def failed(self, code: str) -> None:
        """So many requests in a row came to nothing that it is not they who are at fault: the target is down or shuts us out,
        and every further request would make an unknown of a write, or a quarantine item of a good one.
        """
        if code in NO_TURN:
            return
        self._failures += 1
        if self._failures > self.tolerated:
            self.trouble = TargetError(
                code,
                "the EHR answers nothing, or refuses everything",
                where=self.base_url,
                fix="nothing is lost: what may have arrived is looked up, the rest is sent when the EHR is back",
            )

    def unreadable(self, error: TargetError | NoAnswer) -> None:
        """A read came to nothing; one that is refused is refused to every patient alike."""
        later = isinstance(error, Unreadable) and error.outcome.recovery in (Recovery.RETRY, Recovery.WAIT)
        if later or isinstance(error, NoAnswer):
            self.failed(error.code)
        else:
            self.trouble = error
