"""What a drill acts on: one tenant with patients, extracts, EHR and commit workers, and what must be true of it at the end."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, TypeVar

import yaml

from fhir_writeback_dagster.commit.mirror.refresh import refresh
from fhir_writeback_dagster.config.settings import Layer, Settings
from fhir_writeback_dagster.decide.pipeline import decide
from fhir_writeback_dagster.errors import ServiceError, TargetError
from fhir_writeback_dagster.ingest.landing.landing import land
from fhir_writeback_dagster.ingest.pipeline import normalise
from fhir_writeback_dagster.ops.report import TenantReport, read_report
from fhir_writeback_dagster.orchestration.run_context import RunContext, open_run
from fhir_writeback_dagster.sandbox.demo_home import zone_of
from fhir_writeback_dagster.sandbox.drills.environment import DrillEnvironment
from fhir_writeback_dagster.sandbox.drills.history import Version
from fhir_writeback_dagster.sandbox.drills.worker_pool import WorkerPool
from fhir_writeback_dagster.sandbox.fault_proxy.exchange import WRITES
from fhir_writeback_dagster.sandbox.story.expected import FactKey, Planted, Value
from fhir_writeback_dagster.sandbox.story.files import File, csv_file
from fhir_writeback_dagster.sandbox.story.hospitals import Hospital, StoryPatient
from fhir_writeback_dagster.sandbox.story.rows import RowMaker
from fhir_writeback_dagster.sandbox.story.vocabulary import LABS

STUCK_S = 180.0
SOURCE = "lab_portal"
_POLL_S, _TELL_EVERY, _WARMING_UP = 0.2, 1000, 3
_GLANCE_S, _NEXT_WRITE_S = 0.002, 5.0
_MEASURES = [measure for measure in LABS if measure.other is None]
_STAMP = "%m/%d/%Y %H:%M"

R = TypeVar("R")


@dataclass(slots=True)
class TenantUnderTest:
    """``wanted`` is what must stand in the EHR at the end: a value for each fact, None for one that must not stand there.
    ``theirs`` are facts whose value is a person's, never ours to change.
    """

    stage: DrillEnvironment
    hospital: Hospital
    writes: int
    maker: RowMaker
    crew: WorkerPool
    wanted: dict[FactKey, Value | None] = field(default_factory=dict)
    theirs: set[FactKey] = field(default_factory=set)
    told: dict[FactKey, list[Value]] = field(default_factory=dict)
    """Every value that any extract told of a fact."""
    by_people: set[Version] = field(default_factory=set)
    """Versions of resources that people made in the EHR."""
    charts: set[str] = field(default_factory=set)
    """Ids of the patients whose charts are looked into."""
    rows_told: int = 0
    written_for_nothing: int = 0
    """Resources that have another version than before something that was to write nothing."""
    mishaps: Counter[str] = field(default_factory=Counter)
    """What was done to the machines, beside the proxy's faults."""
    began_at: float = 0.0
    rest_at: float = 0.0
    trouble_at: float = 0.0
    _files: int = 0

    @property
    def id(self) -> str:
        return self.hospital.id

    @property
    def people(self) -> Sequence[StoryPatient]:
        return self.hospital.people

    def rows(self, number: int | None = None, people: Sequence[StoryPatient] = ()) -> list[Planted]:
        """New rows of laboratory results, each another fact; ``number`` of them, else as many as the drill writes."""
        who = people or self.people
        number = self.writes if number is None else number
        return [self.maker.lab(who[n % len(who)], _MEASURES[n % len(_MEASURES)]) for n in range(number)]

    def deliver(self, rows: Sequence[Planted], *, old: bool = False) -> File:
        """The rows come as a new file, and are ingested and decided. What they say must stand in the EHR at the end, except
        what a person has changed there, and what an ``old`` file says.
        """
        file = csv_file(SOURCE, "labs.csv", rows)
        self.drop(file)
        self.rows_told += len(rows)
        for row in rows:
            if row.fact:
                self.told.setdefault(row.fact, []).append(row.value)
        if not old:
            self.wanted.update({row.fact: row.value for row in rows if row.fact and row.fact not in self.theirs})
        return file

    def drop(self, file: File) -> None:
        """A file comes, and is ingested and decided; it is no news where its bytes were there before."""
        self._files += 1
        replace(file, name=f"labs_{self._files}.csv").drop(zone_of(self.stage.home, self.hospital, SOURCE))
        self.run("ingest", land)
        self.run("ingest", normalise)
        self.decide()

    def decide(self) -> None:
        self.run("decide", decide)

    def look_around(self) -> None:
        """Refresh the mirror, before anything goes wrong; a server that has just come up may need more than one try."""
        for _ in range(_WARMING_UP):
            with suppress(TargetError):
                self.run("commit", refresh)
                return
        self.run("commit", refresh)

    def run(self, layer: Layer, work: Callable[[RunContext], R]) -> R:
        """One run of a layer in this process, by the ward's clock."""
        settings = Settings(self.stage.home, layer, self.stage.dsns.of(layer))
        with open_run(settings, self.id, "drill", self.stage.clock.now) as run:
            return work(run)

    def work(self, workers: int = 1) -> None:
        """Commit workers begin."""
        self.began_at = self.began_at or time.monotonic()
        self.crew.hire(workers)

    def settle(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Let them work until every row has come to its end; ``meanwhile`` is called again and again."""
        self._until(lambda report: not report.pending and not report.ends["waiting"], meanwhile)
        self.rest_at = time.monotonic()

    def until(self, share: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Let them work until that share of the drill's writes is recorded."""
        self._until(lambda report: report.created >= share * self.writes, meanwhile)

    def until_in_flight(self) -> None:
        """Let them work until one more write has left: it has no answer yet, where the line delays it."""
        sent, end = self._sent(), time.monotonic() + _NEXT_WRITE_S
        while self._sent() == sent and time.monotonic() < end:
            time.sleep(_GLANCE_S)

    @contextmanager
    def nothing_is_written(self) -> Iterator[None]:
        """What happens in the block may not make the EHR store a single version."""
        before = self._versions()
        yield
        self.written_for_nothing += len(self._versions() - before)

    def _versions(self) -> set[tuple[str, str]]:
        """What stands in the EHR now; a server need not have a history to tell it."""
        return {(r["id"], r["meta"]["versionId"]) for r in self.stage.server.chart.search("Observation")}

    def trouble(self, name: str) -> None:
        """Something goes wrong now; the time to recover counts from the last such."""
        self.mishaps[name] += 1
        self.trouble_at = time.monotonic()

    def kill_worker(self) -> None:
        self.trouble("worker_killed")
        self.crew.kill()

    def kill_postgres(self, away_s: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """SIGKILL to the database server; it comes back after ``away_s``."""
        self.trouble("postgres_killed")
        os.kill(self.stage.postgres.pid, signal.SIGKILL)
        meanwhile()
        time.sleep(away_s)
        self.stage.postgres.revive()

    def outage(self, away_s: float) -> None:
        """The EHR is away for ``away_s``: killed where it comes up again with its data, else unreachable."""
        self.trouble("outage")
        self.stage.proxy.away()
        restartable = self.stage.server.restartable
        if restartable is not None:
            restartable.kill()
        time.sleep(away_s)
        if restartable is not None:
            restartable.start()
        self.stage.proxy.back()

    def jump(self, off: timedelta) -> None:
        """The wall clock of every process of ours is off by that from now on."""
        self.trouble("clock_jumped")
        self.stage.clock.jump(off)

    def killing_workers(self, every_s: float) -> Callable[[], None]:
        """Call it again and again: each ``every_s`` it kills a worker, if anything was sent since the last one died."""
        last, sent = time.monotonic(), self._sent()

        def kill() -> None:
            nonlocal last, sent
            if time.monotonic() - last >= every_s and self._sent() > sent:
                self.kill_worker()
                last, sent = time.monotonic(), self._sent()

        return kill

    def _sent(self) -> int:
        return sum(self.stage.proxy.requests[interaction] for interaction in WRITES)

    def configure(self, *, ehr: Mapping[str, Any]) -> None:
        """Lay ``ehr`` over the tenant's file; a run that begins from now on goes by it."""
        path = self.stage.home / "tenants" / f"{self.id}.yaml"
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        document["ehr"] |= ehr
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")

    def report(self) -> TenantReport:
        return read_report(self.stage.dsns.of("status"), [self.id])[self.id]

    def _until(self, done: Callable[[TenantReport], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
        """Gives up when nothing has moved for `STUCK_S`; what is open then is counted as unaccounted for."""
        before, still_s = None, 0.0
        while still_s < STUCK_S:
            self.crew.tend()
            meanwhile()
            began, report = time.monotonic(), before
            with suppress(ServiceError):  # the database is away for a moment
                report = self.report()
                if report.pending.get("decide"):
                    self.decide()
            if report and done(report):
                return
            pause = max(_POLL_S, 2 * (time.monotonic() - began))
            # Added up from pauses: a machine that was suspended meanwhile does not stand still.
            still_s = still_s + pause if report == before else 0.0
            if report and before and report.created // _TELL_EVERY > before.created // _TELL_EVERY:
                self.stage.progress(f"{report.created} of {self.writes} are written")
            before = report
            time.sleep(pause)
        self.stage.progress(f"nothing has moved for {STUCK_S:.0f} s: giving up")


def corrected(rows: Iterable[Planted], more: str = "0.5") -> list[Planted]:
    """The laboratory's corrections of ``rows``, verified a day later: each value changed by ``more``."""
    return [_corrected(row, Decimal(more)) for row in rows]


def _corrected(row: Planted, more: Decimal) -> Planted:
    code, number, unit = row.value.parts[0]
    changed = Decimal(number) + more
    verified = datetime.strptime(row.columns["verified"], _STAMP) + timedelta(days=1)  # noqa: DTZ007 - a text to a text
    said: dict[str, Any] = {"result": str(changed), "verified": verified.strftime(_STAMP), "state": "corrected"}
    return replace(row, columns={**row.columns, **said}, value=Value(((code, changed, unit),)))


def make_maker(hospital: Hospital, seed: int) -> RowMaker:
    return RowMaker(hospital, Random(seed))  # noqa: S311 - a drill, not a secret
