"""The demo (issue 3): two hospitals' extracts go in by the sensors, resources stand in two EHRs once each, and it is checked.

Nothing in it is short-cut: an embedded PostgreSQL, real FHIR servers with SMART on, the four code locations with separate
environments, Dagster's daemon and webserver. Everything that it starts is gone when it ends, however it ends.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fhir_writeback_dagster.config.settings import HOME
from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops import lock
from fhir_writeback_dagster.ops.configuration import ANY_PORT
from fhir_writeback_dagster.ops.database import Progress
from fhir_writeback_dagster.ops.folder import NAME
from fhir_writeback_dagster.ops.postgres import forget
from fhir_writeback_dagster.ops.report import table
from fhir_writeback_dagster.ops.running import LOCK
from fhir_writeback_dagster.ops.signals import Stopped, undisturbed
from fhir_writeback_dagster.sandbox import check
from fhir_writeback_dagster.sandbox.demo_environment import PATIENCE_S, DemoEnvironment, Scene, staged
from fhir_writeback_dagster.sandbox.demo_home import zone_of
from fhir_writeback_dagster.sandbox.memory import PeakMemory
from fhir_writeback_dagster.sandbox.story.deliveries import Story
from fhir_writeback_dagster.sandbox.story.expected import ENDS
from fhir_writeback_dagster.sandbox.story.files import File

DemoResult = dict[str, Any]
PREFIX = "fhir-writeback-demo-"


def running_demo() -> Path | None:
    """The home of a demo of this user that stays up now (`demo --keep`) where temporary files go; the newest of several."""
    places = [place for place in Path(tempfile.gettempdir()).glob(f"{PREFIX}*") if place.stat().st_uid == os.geteuid()]
    up = [place for place in places if (lock.read(place / NAME / LOCK) or {}).get("web_url")]
    return max(up, key=lambda place: place.stat().st_mtime, default=None)


def run_demo(
    progress: Progress,
    *,
    keep: bool = False,
    folder: Path | None = None,
    ports: Mapping[str, int] = ANY_PORT,
    patience_s: float = PATIENCE_S,
    report: Callable[[DemoResult], None] = lambda _: None,
) -> DemoResult:
    """Play the whole story and return the object of issue 3; ``report`` gets it as soon as it is known.

    :param progress: one line for people; tables and deviations too.
    :param keep: stay up after the report, until a signal ends the process.
    :param folder: where the demo's home is made; must be empty. Left out: a temporary one that is removed at the end.
    :param ports: of PostgreSQL, the locations and the webserver; 0 takes a free one; ``FHIR_WRITEBACK_PORT_…`` wins.
    :param patience_s: how long one part of the story may take.
    :raises ServiceError: a port is taken, something does not start, or a part of the story takes too long.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        home = stack.enter_context(_home(folder))
        memory = stack.enter_context(PeakMemory())
        stage = stack.enter_context(staged(home, ports, progress, patience_s))
        _play(stage, progress)
        tenants: dict[str, Any] = {}
        wrong = _check(stage, tenants)
        result: DemoResult = {
            "ok": not wrong,
            "wall_s": round(time.monotonic() - started, 1),
            "peak_rss_mb": round(memory.peak_mb),
            "tenants": tenants,
        }
        progress(table(stage.reports()))
        for line in wrong:
            progress(f"WRONG {line}")
        report(result)
        if keep:
            for line in _how_to_go_on(stage):
                progress(line)
            with suppress(Stopped):
                while True:
                    stage.running.tend()
                    time.sleep(1)
    return result


def _how_to_go_on(stage: DemoEnvironment) -> Iterator[str]:
    """Where everything is while it stays up, and what to try."""
    command = f"{HOME}={stage.home} {Path(sys.executable).with_name('fhir-writeback')}"
    tenant = stage.scenes[0].id
    yield f"folder: {stage.home}"
    yield f"Dagster: {stage.running.link()} (works once; `status` prints another)"
    yield from (f"EHR of {scene.id}: {scene.ehr.base_url}" for scene in stage.scenes)
    yield "try, in another terminal:"
    yield f"  {command} status"
    yield f"  {command} target show {tenant}"
    yield f"  {command} target pause {tenant} --reason 'a first look'"
    yield "staying up; Ctrl-C ends it"


def _play(stage: DemoEnvironment, progress: Progress) -> None:
    scenes = stage.scenes

    def deliver(which: Callable[[Story], Sequence[File]]) -> None:
        for scene in scenes:
            scene.deliver(stage.home, which(scene.story))

    rows = sum(len(file.rows) for scene in scenes for file in scene.story.first)
    progress(f"4/7 dropping extracts of {len(scenes)} hospitals: {rows} rows, clean and messy")
    deliver(lambda story: story.first)
    progress("5/7 the sensors find them: ingest, decide, commit")
    stage.until_waiting()
    for scene in scenes:
        scene.patients += scene.ehr.load(r for r in scene.story.hospital.late_registration() if r["resourceType"] == "Patient")
        scene.ehr.load(r for r in scene.story.hospital.late_registration() if r["resourceType"] != "Patient")
    progress("    the late patient is registered now; their rows were there before")
    stage.settle("the first delivery")
    progress("6/7 the same extracts again: the same bytes, and exported anew in another order")
    before = {scene.id: check.versions(scene.ehr.chart) for scene in scenes}
    for scene in scenes:
        _deliver_same_bytes(stage.home, scene)
    deliver(lambda story: story.again)
    stage.settle("the second delivery")
    for scene in scenes:
        scene.second_delivery_writes = check.versions(scene.ehr.chart) - before[scene.id]
    progress("    corrected rows: values, and a wrong patient")
    deliver(lambda story: story.corrections)
    stage.until_read("the correction")  # decide takes rows in the order of their reading, so the old ones come after these
    progress("    an old file comes again")
    deliver(lambda story: story.old)
    stage.settle("the correction and the old file")
    progress("7/7 looking into the EHRs")


def _deliver_same_bytes(home: Path, scene: Scene) -> None:
    """The very same files under other names: nothing new is read of them."""
    for file in scene.story.first:
        if file.rows:
            stem, _, kind = file.name.rpartition(".")
            replace(file, name=f"{stem}_again.{kind}").drop(zone_of(home, scene.story.hospital, file.source))


def _check(stage: DemoEnvironment, tenants: dict[str, Any]) -> list[str]:
    """Fill in the tenants' part of the result and return what does not add up."""
    wrong = []
    reports = stage.reports()
    for scene in stage.scenes:
        report, truth = reports[scene.id], scene.truth
        finding = check.look(scene.ehr.chart, scene.story.hospital.identifier_system, truth.facts)
        told = report.to_json()
        tenants[scene.id] = {
            **{part: told[part] for part in ("rows", "ends", "reasons", "stages")},
            "resources": {
                "created": report.created,
                "updated": report.updated,
                "ehr_found": finding.found,
                "ehr_duplicates": finding.duplicates,
            },
            "second_delivery_writes": scene.second_delivery_writes,
        }
        expected = {
            "rows": (report.rows, truth.rows),
            "rows in exactly one end": (sum(report.ends.values()), report.rows),
            "refused files": (report.refused, truth.refused),
            "resources in the EHR": (finding.found, report.created),
            "duplicates in the EHR": (finding.duplicates, 0),
            "writes of the second delivery": (scene.second_delivery_writes, 0),
            "patients in the EHR": (scene.ehr.chart.count("Patient"), scene.patients),
            **{f"rows {end}": (report.ends[end], truth.ends[end]) for end in ENDS},
            **{
                f"rows {end}, {reason}": (report.reasons.get(end, {}).get(reason, 0), planted)
                for (end, reason), planted in truth.reasons.items()
            },
            **{f"versions of {r['id']}": (int(_stored(scene, r)["meta"]["versionId"]), 1) for r in scene.story.filed},
        }
        wrong += [f"{scene.id}: {what}: {is_} instead of {ought}" for what, (is_, ought) in expected.items() if is_ != ought]
        wrong += [f"{scene.id}: {line}" for line in finding.deviations]
    return wrong


def _stored(scene: Scene, resource: dict[str, Any]) -> dict[str, Any]:
    return scene.ehr.chart.read(resource["resourceType"], resource["id"])


@contextmanager
def _home(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ServiceError("folder_not_empty", "the demo makes its home anew", where=str(folder), fix="name an empty folder")
        forget(folder)  # of a demo whose folder was removed by hand
        yield folder.resolve()
        return
    made = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        yield made
    finally:
        with undisturbed():
            forget(made)
            shutil.rmtree(made, ignore_errors=True)
