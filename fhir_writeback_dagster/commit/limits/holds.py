"""What holds a target back: a person (drain, pause), the cap that a person releases, a blackout, its own word, its silence.

It stands in the database (`ledger.target`), so that it counts over runs and processes, that a sensor asks for no run while it
lasts, and that whoever writes a send marker sees it in the same transaction (:func:`allowance`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any, Literal, LiteralString
from zoneinfo import ZoneInfo

from psycopg import Connection

from fhir_writeback_dagster.config.tenants import Blackout
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.store.db import record_event

DesiredState = Literal["running", "draining", "paused"]
Because = Literal["down", "throttled", "blackout", "cap", "drift"]

FIRST_DOWN_S, LONGEST_DOWN_S = 2.0, 300.0
LEAST_USUAL = 100
"""Writes a day below which nothing is unusual."""
_DAYS_KNOWN = 3
"""So many days with writes make a usual day."""
_LEAVE: LiteralString = (
    "SELECT wish = 'paused' OR coalesce(held_until > clock_timestamp(), false) FROM ledger.target "
    "WHERE tenant = %(tenant)s AND target = %(target)s FOR SHARE"
)
_LEAVE_ALONE: LiteralString = _LEAVE.replace("SHARE", "NO KEY UPDATE")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class Hold:
    """How a target stands. ``seconds`` until it may be used again (infinite: until a person releases it), ``failures`` in a
    row of runs that found it down.
    """

    desired_state: DesiredState = "running"
    because: Because | None = None
    seconds: float = 0.0
    failures: int = 0

    @property
    def reason(self) -> str | None:
        """Why nothing may be sent now; None: it may."""
        return "paused" if self.desired_state == "paused" else self.because if self.seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Allowance:
    """``stopped``: nothing may be sent now; ``left``: so many writes until the cap is reached (None: there is none)."""

    stopped: bool = False
    left: int | None = None


def read(connection: Connection[Any], run: RunContext) -> Hold:
    """How the tenant's target stands now."""
    row = connection.execute(
        "SELECT wish, held_because, CASE WHEN held_until IS NULL THEN 0 WHEN NOT isfinite(held_until) THEN 'infinity' "
        "ELSE greatest(extract(epoch FROM held_until - clock_timestamp()), 0) END::float8, failures "
        "FROM ledger.target WHERE tenant = %s AND target = %s",
        (run.id, run.tenant.ehr.target),
    ).fetchone()
    return Hold(*row) if row else Hold()


def standing(connection: Connection[Any], run: RunContext) -> Hold:
    """:func:`read`, and a blackout that began is a hold from now on."""
    if seconds := in_blackout(run):
        hold(connection, run, "blackout", seconds)
    return read(connection, run)


def set_desired_state(connection: Connection[Any], run: RunContext, wanted: DesiredState, by: str, reason: str) -> None:
    """What a person wants of the target; the run that is on its way sees it before its next send marker."""
    _write(connection, run, "wish = excluded.wish", wish=wanted)
    event = {"running": "resumed", "draining": "draining", "paused": "paused"}[wanted]
    _tell(connection, run, event, {"by": by, "why": reason})


def release(connection: Connection[Any], run: RunContext, by: str, reason: str) -> bool:
    """End the hold of a target because a person decided so; the writes counted towards the cap start anew at zero.

    Returns False where no hold was ended: there was none, or the target differs from what was approved. Such a drift ends only
    when the target is approved again.
    """
    held = read(connection, run)
    if held.seconds <= 0:
        return False
    row = connection.execute(
        "UPDATE ledger.target t SET held_until = d.until, held_because = CASE WHEN d.until IS NOT NULL THEN 'drift' END, "
        "failures = 0, changed_at = now() FROM (SELECT CASE WHEN EXISTS (SELECT FROM ledger.snapshot s WHERE s.tenant = "
        "%(tenant)s AND s.target = %(target)s AND s.drifted) THEN 'infinity'::timestamptz END AS until) d "
        "WHERE t.tenant = %(tenant)s AND t.target = %(target)s RETURNING t.held_because",
        {"tenant": run.id, "target": run.tenant.ehr.target},
    ).fetchone()
    connection.execute(
        "UPDATE ledger.sent SET counted = 0 WHERE tenant = %s AND target = %s AND counted > 0", (run.id, run.tenant.ehr.target)
    )
    drifted = row is not None and row[0] is not None
    if not (drifted and held.because == "drift"):
        _tell(connection, run, "released", {"by": by, "why": reason, "was": held.because})
    if drifted and held.because != "drift":
        _tell(connection, run, "held", {"because": "drift"})
    return not drifted


def hold(connection: Connection[Any], run: RunContext, because: Because, seconds: float | None) -> None:
    """Nothing is sent for so many ``seconds`` (None: until a person releases it). A longer hold stands."""
    before = read(connection, run)
    if before.seconds >= (seconds if seconds is not None else float("inf")):
        return
    _write(
        connection,
        run,
        "held_until = excluded.held_until, held_because = excluded.held_because",
        held_because=because,
        seconds=seconds,
    )
    if before.because != because or before.seconds <= 0:
        _tell(connection, run, "capped" if because == "cap" else "held", {"because": because})


def found_down(connection: Connection[Any], run: RunContext) -> None:
    """A run ended because the target does not answer: the circuit is open, each time for twice as long, up to five minutes."""
    failures = read(connection, run).failures
    wait = min(FIRST_DOWN_S * 2**failures, LONGEST_DOWN_S)
    hold(connection, run, "down", wait * random.uniform(0.75, 1.0))  # noqa: S311 - no secret
    _write(connection, run, "failures = t.failures + 1", failures=1)


def found_up(connection: Connection[Any], run: RunContext) -> None:
    """It answers again."""
    connection.execute(
        "UPDATE ledger.target SET failures = 0, changed_at = now() WHERE tenant = %s AND target = %s AND failures > 0",
        (run.id, run.tenant.ehr.target),
    )


def cap(connection: Connection[Any], run: RunContext) -> int | None:
    """How many writes a day are let through without a person: the tenant's number, or so many times the usual day."""
    limits = run.tenant.ehr.limits
    caps = [limits.writes_per_day] if limits.writes_per_day else []
    if limits.times_usual:
        row = connection.execute(
            "SELECT count(DISTINCT hour::date), coalesce(sum(writes), 0) FROM ledger.sent WHERE tenant = %s AND target = %s "
            "AND hour BETWEEN now() - interval '15 days' AND now() - interval '1 day'",
            (run.id, run.tenant.ehr.target),
        ).fetchone()
        if row and row[0] >= _DAYS_KNOWN:
            caps.append(max(LEAST_USUAL, int(limits.times_usual * row[1] / row[0])))
    return min(caps, default=None)


def allowance(connection: Connection[Any], run: RunContext, limit: int | None) -> Allowance:
    """What may be sent in this transaction. Whoever pauses or holds the target waits for its end, so no marker is written after
    a `pause` that has returned; with a ``limit`` whoever else asks does, so no two workers use the same rest of it.

    :param limit: what :func:`cap` said at the beginning of the run.
    """
    if seconds := in_blackout(run):
        hold(connection, run, "blackout", seconds)
        return Allowance(stopped=True)
    place = {"tenant": run.id, "target": run.tenant.ehr.target}
    ask = _LEAVE if limit is None else _LEAVE_ALONE
    stands = connection.execute(ask, place).fetchone()
    if stands is None:  # nobody ever held it, so there was nothing to lock
        connection.execute(
            "INSERT INTO ledger.target (tenant, target) VALUES (%(tenant)s, %(target)s) ON CONFLICT DO NOTHING", place
        )
        stands = connection.execute(ask, place).fetchone()
    if stands is None or stands[0] or limit is None:
        return Allowance(stopped=stands is None or bool(stands[0]))
    # A statement of its own, or it would not see what was counted while the lock was waited for.
    used = connection.execute(
        "SELECT coalesce(sum(counted), 0) FROM ledger.sent WHERE tenant = %(tenant)s AND target = %(target)s "
        "AND hour > now() - interval '1 day'",
        place,
    ).fetchone()
    return Allowance(left=max(0, limit - int(used[0] if used else 0)))


def count(connection: Connection[Any], run: RunContext, sends: int) -> None:
    """So many send markers were written in this transaction."""
    connection.execute(
        "INSERT INTO ledger.sent AS s (tenant, target, hour, writes, counted) "
        "VALUES (%s, %s, date_trunc('hour', clock_timestamp()), %s, %s) ON CONFLICT (tenant, target, hour) "
        "DO UPDATE SET writes = s.writes + excluded.writes, counted = s.counted + excluded.counted",
        (run.id, run.tenant.ehr.target, sends, sends),
    )


def in_blackout(run: RunContext) -> float:
    """Seconds until the tenant's blackout is over; 0: there is none now."""
    return blackout_s(run.tenant.ehr.limits.blackouts, run.tenant.time_zone, run.now())


def blackout_s(blackouts: Sequence[Blackout], zone: str, now: datetime) -> float:
    """Seconds until the blackout that ``now`` lies in is over; 0: it lies in none."""
    local = now.astimezone(ZoneInfo(zone))
    ends = [
        end
        for blackout in blackouts
        for day in (local.date() - timedelta(days=1), local.date())
        if _DAYS[day.weekday()] in blackout.days
        for begin, end in [_span(blackout, datetime.combine(day, time(), local.tzinfo))]
        if begin <= local < end
    ]
    return max(((end - now).total_seconds() for end in ends), default=0.0)


def _span(blackout: Blackout, day: datetime) -> tuple[datetime, datetime]:
    begin, end = (datetime.combine(day.date(), time.fromisoformat(clock), day.tzinfo) for clock in (blackout.begin, blackout.end))
    return begin, end if end > begin else end + timedelta(days=1)


def _write(connection: Connection[Any], run: RunContext, update: LiteralString, **values: Any) -> None:
    connection.execute(
        "INSERT INTO ledger.target AS t (tenant, target, wish, held_until, held_because, failures) VALUES (%(tenant)s, "  # noqa: S608
        "%(target)s, %(wish)s, CASE WHEN %(held_because)s::text IS NULL THEN NULL WHEN %(seconds)s::float8 IS NULL THEN "
        "'infinity' ELSE clock_timestamp() + make_interval(secs => %(seconds)s) END, %(held_because)s, %(failures)s) "
        f"ON CONFLICT (tenant, target) DO UPDATE SET {update}, changed_at = now()",
        {
            "tenant": run.id,
            "target": run.tenant.ehr.target,
            "wish": "running",
            "held_because": None,
            "seconds": None,
            "failures": 0,
            **values,
        },
    )


def _tell(connection: Connection[Any], run: RunContext, event: str, detail: dict[str, Any]) -> None:
    record_event(connection, f"target.{event}", [run.tenant.ehr.target], [detail])
