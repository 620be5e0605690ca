"""What sensors and schedules share: one run for each lane and tenant that has work, and none while one is on its way.

The database is the queue, so a tick keeps no cursor, and a sensor's gives no run key: a run that died before its first statement
would burn the key for ever (Dagster 1.13), and a tick that raises does not save its cursor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import takewhile
from logging import Logger
from typing import Any

import dagster as dg
from dagster import DagsterRunStatus as Status
from psycopg import Connection

from fhir_writeback_dagster.config.settings import Settings
from fhir_writeback_dagster.config.tenants import load_tenant
from fhir_writeback_dagster.errors import ConfigError, describe
from fhir_writeback_dagster.orchestration.lanes import LANE_TAG, TENANT_TAG, WORK_TAG, Lane, settings_of
from fhir_writeback_dagster.orchestration.partitions import TENANTS, name
from fhir_writeback_dagster.store.db import connect, lane_holder

TICK_S = 5
FIRST_PAUSE = timedelta(seconds=10)
LONGEST_PAUSE = timedelta(minutes=10)
START_GRACE = timedelta(seconds=60)
_MOST_NOTES = 20
_LOOK_BACK = 12  # runs: more failures in a row than the longest pause needs

_COMING = {Status.QUEUED, Status.STARTING}
_RUNNING = {Status.NOT_STARTED, Status.STARTED, Status.CANCELING}
_FAILED = {Status.FAILURE, Status.CANCELED}


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run of one lane and tenant; ``since`` is when it ended, or began while it has not (UTC); ``work`` was waiting then."""

    run_id: str
    status: Status
    since: datetime
    work: str | None = None


def reason_to_wait(
    runs: Sequence[PastRun], now: datetime, holder: Callable[[], str | None], work: str | None = None
) -> str | None:
    """Why no run may be asked for now, or None. ``runs`` come newest first; ``holder`` asks who holds the lane.

    A run that Dagster believes to be running, and that holds no lane a minute after its start, has died or is about to end:
    the default launcher watches no worker (Dagster 1.13), and waiting for it would stop the tenant until
    ``max_runtime_seconds``. Failures in a row double the pause, from 10 s up to 10 min; a run that left the very work it was
    asked for, such as a file that nobody may read, is one of them, or it would be asked for every five seconds.
    """
    for run in runs:
        if run.status in _COMING or (run.status in _RUNNING and now - run.since < START_GRACE):
            return f"run {run.run_id[:8]} is {run.status.value.lower()}"
    if who := holder():
        return f"run {who[:8]} holds the lane"
    ended = [run for run in runs if run.status not in _RUNNING]
    vain = list(takewhile(lambda run: run.status in _FAILED or (work is not None and run.work == work), ended))
    if not vain:
        return None
    left = vain[0].since + min(FIRST_PAUSE * 2 ** (len(vain) - 1), LONGEST_PAUSE) - now
    return f"{len(vain)} in a row came to nothing, the next in {left.total_seconds():.0f} s" if left > timedelta() else None


@dataclass(slots=True)
class Asked:
    """The runs that a tick asks for, and why it asks for no others: notes of ours, safe to show."""

    requests: list[dg.RunRequest] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def why(self, nothing: str) -> str:
        """The notes as one text, a few of many; ``nothing`` where there are none."""
        more = len(self.notes) - _MOST_NOTES
        return "; ".join([*self.notes[:_MOST_NOTES], *([f"and {more} more"] if more > 0 else [])]) or nothing

    def result(self, log: Logger) -> dg.SensorResult:
        """For a sensor: either runs, with the notes in the tick's log, or the notes as the reason of skipping."""
        if not self.requests:
            return dg.SensorResult(skip_reason=self.why("nothing waits"))
        if self.notes:
            log.warning("left out: %s", self.why(""))
        return dg.SensorResult(run_requests=self.requests)

    def scheduled(self, nothing: str) -> Sequence[dg.RunRequest] | dg.SkipReason:
        """For a schedule, whose requests need a key each. It counts within one tick, so a run that dies burns no later one's.

        ``nothing`` is the reason of skipping where there are no notes either.
        """
        keyed = [request.with_replaced_attrs(run_key=request.partition_key) for request in self.requests]
        return keyed or dg.SkipReason(self.why(nothing))


def ask(
    instance: dg.DagsterInstance,
    connection: Connection[Any],
    settings: Settings,
    lane: Lane,
    work: Mapping[str, str | None],
    now: datetime | None = None,
) -> Asked:
    """Ask for one run of ``lane`` for each tenant of ``work``, unless one is on its way or just failed.

    ``work`` tells what waits in a few letters that change with it (letters, digits, ``_.-``: they become a tag). A tenant whose
    file is bad is noted with file and line and left out; the others go on.
    """
    now = now or datetime.now(UTC)
    keys, asked = set(instance.get_dynamic_partitions(name())), Asked()
    for tenant, waiting in work.items():
        note = _not_ready(settings, tenant, keys)
        if note is None:
            holder = partial(lane_holder, connection, lane, tenant)
            note = reason_to_wait(_runs(instance, lane, tenant), now, holder, waiting)
        if note is None:
            tags = {LANE_TAG: lane, TENANT_TAG: tenant} | ({WORK_TAG: waiting} if waiting else {})
            asked.requests.append(dg.RunRequest(partition_key=tenant, tags=tags))
        else:
            asked.notes.append(f"{tenant}: {note}")
    return asked


@contextmanager
def tick(lane: Lane) -> Iterator[tuple[Settings, Connection[Any]]]:
    """This layer's settings and its database for one evaluation of a sensor or schedule of ``lane``.

    :raises dg.Failure: what went wrong as one line that is safe to keep; a tick's error goes into Dagster's storage.
    """
    try:
        settings = settings_of(lane)
        with connect(settings.dsn, application=f"fw {lane} sensor") as connection:
            yield settings, connection
    except Exception as error:  # noqa: BLE001 - its text could hold a file's name, and that a patient's
        raise dg.Failure(describe(error)) from None


def pending(connection: Connection[Any], lane: Lane) -> dict[str, str | None]:
    """Tenants with work in ``lane``, those that wait longest first, each with how much waits and since when."""
    rows = connection.execute("SELECT tenant, items, oldest FROM ops.pending(%s) ORDER BY oldest", (lane,)).fetchall()
    return {tenant: f"{items}.{oldest.timestamp():.0f}" for tenant, items, oldest in rows}


def _not_ready(settings: Settings, tenant: str, keys: set[str]) -> str | None:
    try:
        load_tenant(settings.tenants, tenant)
    except ConfigError as error:
        return str(error)
    return None if tenant in keys else f"its partition is not there yet; {TENANTS.name}_sensor adds it"


def _runs(instance: dg.DagsterInstance, lane: Lane, tenant: str) -> list[PastRun]:
    filters = dg.RunsFilter(tags={LANE_TAG: lane, TENANT_TAG: tenant})
    runs = []
    for record in instance.get_run_records(filters, limit=_LOOK_BACK):
        began = record.start_time or record.create_timestamp.timestamp()
        since = record.end_time or began
        run = record.dagster_run
        runs.append(PastRun(run.run_id, run.status, datetime.fromtimestamp(since, UTC), run.tags.get(WORK_TAG)))
    return runs
