"""How an EHR stands with us, as `status` and `target show` say it: what waits for it, since when, why, and how it answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psycopg import Connection

_COLUMNS = (
    "tenant, target, desired_state, held_because, held_until, for_good, failures, unsent, in_doubt, mediated, oldest, next_due, "
    "last_success, answers, p50_ms, p95_ms, unanswered"
)


@dataclass(frozen=True, slots=True)
class TargetStanding:
    """One target of a tenant. Times are UTC; counts are of writes; the answers are those of the last hour.

    ``unsent`` are approved and not sent, ``in_doubt`` sent without an answer and to be looked up, ``mediated`` taken by the
    target for somebody's approval. ``oldest`` is when the oldest of them was approved, ``next_due`` when the first of those
    that were tried is due again. ``held_until`` says until when nothing is sent; ``for_good``: until a person releases it.
    """

    tenant: str
    target: str
    desired_state: str = "running"
    held_because: str | None = None
    held_until: datetime | None = None
    for_good: bool = False
    failures: int = 0
    unsent: int = 0
    in_doubt: int = 0
    mediated: int = 0
    oldest: datetime | None = None
    next_due: datetime | None = None
    last_success: datetime | None = None
    answers: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    unanswered: int = 0

    def to_json(self) -> dict[str, object]:
        """Times in ISO 8601, milliseconds rounded."""
        return {
            "target": self.target,
            "desired_state": self.desired_state,
            "held": self.held_because,
            "held_until": "released by a person" if self.for_good else _iso(self.held_until),
            "failures": self.failures,
            "unsent": self.unsent,
            "in_doubt": self.in_doubt,
            "mediated": self.mediated,
            "oldest": _iso(self.oldest),
            "next_try": _iso(self.next_try),
            "last_success": _iso(self.last_success),
            "answers": {
                "count": self.answers,
                "none": self.unanswered,
                "p50_ms": None if self.p50_ms is None else round(self.p50_ms),
                "p95_ms": None if self.p95_ms is None else round(self.p95_ms),
            },
        }

    @property
    def next_try(self) -> datetime | None:
        """When something is sent again at the soonest; None: nothing waits, or a person has to let it go on."""
        if self.for_good or self.desired_state == "paused" or not (self.unsent or self.in_doubt):
            return None
        return max((at for at in (self.held_until, self.next_due) if at is not None), default=None)

    def lines(self, now: datetime) -> Iterator[str]:
        """For people: how it stands, and under it what waits and how it answered."""
        yield f"{self.tenant}: {self.target} is {self._state(now)}"
        parts = [
            f"{self.unsent} approved and unsent" if self.unsent else "",
            f"{self.in_doubt} without an answer, to be looked up" if self.in_doubt else "",
            f"{self.mediated} waiting for the target's own approval" if self.mediated else "",
        ]
        queue = ", ".join(part for part in parts if part) or "nothing"
        since = f"; the oldest since {_ago(now, self.oldest)}" if self.oldest else ""
        coming = f"; next try {_in(now, self.next_try)}" if self.next_try else ""
        yield f"  waiting: {queue}{since}{coming}"
        success = f"{_ago(now, self.last_success)} ago" if self.last_success else "none yet"
        times = f"p50 {self.p50_ms or 0:.0f} ms, p95 {self.p95_ms or 0:.0f} ms" if self.answers else ""
        none = f"{self.unanswered} unanswered" if self.unanswered else ""
        hour = ", ".join(part for part in (f"{self.answers} answers", times, none) if part)
        yield f"  last success: {success}; in the last hour: {hour}"

    def _state(self, now: datetime) -> str:
        parts = [self.desired_state]
        if self.for_good:
            parts.append(f"held back until a person releases it ({self.held_because})")
        elif self.held_until and self.held_until > now:
            parts.append(f"held back for {(self.held_until - now).total_seconds():.0f} s more ({self.held_because})")
        if self.failures:
            parts.append(f"{self.failures} failure{'s' if self.failures > 1 else ''} in a row")
        return ", ".join(parts)


def read_standings(connection: Connection[Any], tenant: str | None = None) -> list[TargetStanding]:
    """Every target that anything is known of, or those of one tenant; by a layer's or the status login."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM ops.targets() WHERE %(tenant)s::text IS NULL OR tenant = %(tenant)s ORDER BY tenant, target",  # noqa: S608
        {"tenant": tenant},
    )
    return [TargetStanding(*row) for row in rows.fetchall()]


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="seconds")


def _in(now: datetime, at: datetime | None) -> str:
    return "now" if at is None or at <= now else f"in {_span((at - now).total_seconds())}"


def _ago(now: datetime, at: datetime | None) -> str:
    return "" if at is None else _span(max(0.0, (now - at).total_seconds()))


def _span(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
