"""One pass over all that waits, without Dagster's daemon: what `run` does, for cron jobs, tests and first tries.

Each lane of each tenant runs in a process of its own (``ops.onepass``), through the same assets, with its layer's
environment and under its lane's lock, so it can run beside a daemon: whoever comes second finds the lane held and ends clean.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fhir_writeback_dagster.config.settings import Layer
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.ops.configuration import LOCATIONS, Configuration
from fhir_writeback_dagster.ops.dagsterhome import prepare_dagster
from fhir_writeback_dagster.ops.database import Progress, register
from fhir_writeback_dagster.ops.environment import layer_environment
from fhir_writeback_dagster.ops.folder import StateFolder
from fhir_writeback_dagster.ops.process import Child, Program
from fhir_writeback_dagster.ops.provision import Dsns
from fhir_writeback_dagster.ops.report import TenantReport, read_report
from fhir_writeback_dagster.ops.signals import undisturbed

# As `lanes.LAYER_OF`, without the second that importing Dagster takes.
_LAYER: Mapping[str, Layer] = {"mirror": "commit", "ingest": "ingest", "decide": "decide", "commit": "commit"}

Job = tuple[str, str]  # lane, tenant


@dataclass(slots=True)
class PassReport:
    """``failures`` are lines that are safe to show: a lane that ended with an error, a tenant that cannot be worked with."""

    tenants: dict[str, TenantReport] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.failures and all(report.adds_up for report in self.tenants.values())


def one_pass(config: Configuration, state: StateFolder, dsns: Dsns, progress: Progress, only: str | None = None) -> PassReport:
    """Mirror and ingest, then lookups, decide and commit as long as work waits and something moves.

    ``only`` is one tenant; a tenant that fails stops no other.

    :raises ConfigError: there is no such tenant, or its file is bad.
    :raises ServiceError: the database or Dagster's storage does not work.
    """
    good, bad = config.tenants()
    if only is not None and only not in (known := [tenant.tenant for tenant in good]):
        raise next(
            (error for error in bad if f"{only}.yaml" in error.where),
            ConfigError("unknown_tenant", f"no tenant {only}", where="tenants/", fix=f"known: {', '.join(known) or 'none'}"),
        )
    names = [tenant.tenant for tenant in good if only in {None, tenant.tenant}]
    result = PassReport(failures=[] if only else [str(error) for error in bad])
    progress("preparing Dagster's storage")
    register(dsns, [tenant.tenant for tenant in good])
    prepare_dagster(config, state, dsns, [tenant.tenant for tenant in good])
    environments = {}
    for layer in LOCATIONS:
        environments[layer], _ = layer_environment(config, state, dsns, layer, good)
    runner = _Runner(environments, state, progress)
    try:
        runner.run([(lane, name) for name in names for lane in ("mirror", "ingest")])
        _until_still(lambda: read_report(dsns.of("status"), names), runner)
    finally:
        runner.stop()
    result.failures += runner.failures
    result.tenants = read_report(dsns.of("status"), names)
    return result


def _until_still(look: Callable[[], dict[str, TenantReport]], runner: _Runner) -> None:
    before: object = None
    while True:
        reports = look()
        waiting = [
            (lane, tenant)
            for lane in ("mirror", "decide", "commit")
            for tenant, report in reports.items()
            if report.pending.get(lane) and (lane, tenant) not in runner.failed
        ]
        if not waiting or reports == before:
            return
        before = reports
        lane = waiting[0][0]  # lookups first, then decide: they make work for those after them
        runner.run([job for job in waiting if job[0] == lane])


class _Runner:
    """Runs lanes in processes, a few at a time; ``failed`` are those that ended with an error."""

    def __init__(self, environments: Mapping[Layer, Mapping[str, str]], state: StateFolder, progress: Progress) -> None:
        self._environments, self._state, self._progress = environments, state, progress
        self._running: dict[Job, Child] = {}
        self.failed: set[Job] = set()
        self.failures: list[str] = []

    def run(self, jobs: Sequence[Job]) -> None:
        waiting = list(jobs)
        at_once = max(2, os.cpu_count() or 2)
        while waiting or self._running:
            while waiting and len(self._running) < at_once:
                job = waiting.pop(0)
                with undisturbed():
                    self._running[job] = Child(self._program(job))
            for job, child in self._ended():
                child.stop()  # nothing of its session stays
                del self._running[job]
                self._note(job, child)
            time.sleep(0.05)

    def stop(self) -> None:
        """End what still runs: after Ctrl-C. What it had begun is taken up by the next pass."""
        with undisturbed():
            for child in self._running.values():
                child.ask_to_stop()
            for child in self._running.values():
                child.stop()
            self._running.clear()

    def _ended(self) -> Iterator[tuple[Job, Child]]:
        yield from [(job, child) for job, child in self._running.items() if child.exit_code is not None]

    def _note(self, job: Job, child: Child) -> None:
        lane, tenant = job
        if child.exit_code == 0:
            self._progress(f"{tenant}: {lane} done")
            return
        self.failed.add(job)
        words = child.last_words().removeprefix("error: ") or f"ended with code {child.exit_code} and wrote nothing"
        self.failures.append(f"{tenant}: {lane}: {words}")
        self._progress(f"error: {self.failures[-1]}")

    def _program(self, job: Job) -> Program:
        lane, tenant = job
        arguments = [sys.executable, "-m", "fhir_writeback_dagster.ops.onepass", lane, tenant]
        folder = self._state.folder("dagster")
        return Program(
            f"{lane} of {tenant}", arguments, self._environments[_LAYER[lane]], self._state.log(f"run-{tenant}-{lane}"), folder
        )
