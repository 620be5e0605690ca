"""The demo (issue 3): two hospitals' extracts go in by the sensors, resources stand in two EHRs once each, and it is checked.

Nothing in it is short-cut: an embedded PostgreSQL, real FHIR servers with SMART on, the four code locations with separate
environments, Dagster's daemon and webserver. Everything that it starts is gone when it ends, however it ends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops.configuration import ANY_PORT, load_configuration
from fhir_writeback_dagster.ops.postgres import forget
from fhir_writeback_dagster.ops.report import TenantReport, read_report, table
from fhir_writeback_dagster.ops.running import Running, running
from fhir_writeback_dagster.ops.signals import Stopped, undisturbed
from fhir_writeback_dagster.sandbox import check
from fhir_writeback_dagster.sandbox.extracts import Story, make_story
from fhir_writeback_dagster.sandbox.files import File
from fhir_writeback_dagster.sandbox.home import make_home, zone_of
from fhir_writeback_dagster.sandbox.keys import make_client_key
from fhir_writeback_dagster.sandbox.memory import PeakMemory
from fhir_writeback_dagster.sandbox.sekmet import Sekmet
from fhir_writeback_dagster.sandbox.truth import ENDS, Truth
from fhir_writeback_dagster.sandbox.world import make_world

Progress = Callable[[str], None]
Result = dict[str, Any]

STUCK_S = 180
_POLL_S = 1.0


@dataclass(slots=True)
class Scene:
    """One hospital on the stage: its story, its EHR, and what was delivered so far."""

    story: Story
    ehr: Sekmet
    private_jwk: str
    truth: Truth = field(default_factory=Truth)
    extracts: int = 0
    patients: int = 0
    second_delivery_writes: int = -1

    @property
    def id(self) -> str:
        return self.story.hospital.id

    @property
    def unregistered(self) -> int:
        """Rows of people whom the EHR does not know when the first extracts come."""
        return sum(row.plant in ("late", "unknown_patient") for file in self.story.first for row in file.rows)

    def deliver(self, folder: Path, files: Sequence[File]) -> None:
        """Drop files into the landing zones, and keep in mind what must become of them."""
        for file in files:
            file.drop(zone_of(folder, self.story.hospital, file.source))
            self.truth.read(file.rows)
            self.extracts += 1
            self.truth.refused += not file.rows


def run_demo(
    progress: Progress,
    *,
    keep: bool = False,
    folder: Path | None = None,
    ports: Mapping[str, int] = ANY_PORT,
    report: Callable[[Result], None] = lambda _: None,
) -> Result:
    """Play the whole story and return the object of issue 3; ``report`` gets it as soon as it is known.

    :param progress: one line for people; tables and deviations too.
    :param keep: stay up after the report, until a signal ends the process.
    :param folder: where the demo's home is made; must be empty. Left out: a temporary one that is removed at the end.
    :param ports: of PostgreSQL, the locations and the webserver; 0 takes a free one; ``FHIR_WRITEBACK_PORT_…`` wins.
    :raises ServiceError: a port is taken, something does not start, or nothing moves for three minutes.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        home = stack.enter_context(_home(folder))
        memory = stack.enter_context(PeakMemory())
        stage = stack.enter_context(_stage(home, ports, progress))
        _play(stage, progress)
        result: Result = {
            "ok": False,
            "wall_s": round(time.monotonic() - started, 1),
            "peak_rss_mb": round(memory.peak_mb),
            "tenants": {},
        }
        wrong = _check(stage, result)
        result["ok"] = not wrong
        progress(table(stage.reports()))
        for line in wrong:
            progress(f"WRONG {line}")
        progress(f"Dagster UI: {stage.running.web_url}")
        report(result)
        if keep:
            progress("staying up; Ctrl-C ends it")
            with suppress(Stopped):
                while True:
                    stage.running.tend()
                    time.sleep(1)
    return result


@dataclass(slots=True)
class Stage:
    """All that runs while the demo plays."""

    home: Path
    scenes: list[Scene]
    running: Running

    def reports(self) -> dict[str, TenantReport]:
        """Where every row stands now, by tenant; as `status` tells it."""
        return read_report(self.running.dsns.of("status"))

    def settle(self, what: str) -> None:
        """Wait until every file that was dropped is read and every row has come to an end.

        :raises ServiceError: nothing moved for three minutes; says what stands still.
        """
        self._until(what, lambda reports: [why for scene in self.scenes for why in unsettled(scene, reports.get(scene.id))])

    def until_waiting(self) -> None:
        """Wait until nobody but those who are not registered yet is unknown: the mirror was read and decide has used it.

        :raises ServiceError: as `settle`.
        """

        def others(reports: Mapping[str, TenantReport]) -> list[str]:
            waiting = {s.id: reports[s.id].reasons.get("waiting", {}) if s.id in reports else {} for s in self.scenes}
            return [
                f"{s.id}: {waiting[s.id].get('patient_unknown', 0)} rows of unknown patients"
                for s in self.scenes
                if waiting[s.id].get("patient_unknown") != s.unregistered or "undecided" in waiting[s.id]
            ]

        self._until("meeting the late patients", others)

    def _until(self, what: str, left: Callable[[Mapping[str, TenantReport]], list[str]]) -> None:
        moved, before = time.monotonic(), None
        while True:
            self.running.tend()
            reports = self.reports()
            moving = left(reports)
            if not moving:
                return
            if reports != before:
                moved, before = time.monotonic(), reports
            elif time.monotonic() - moved > STUCK_S:
                raise ServiceError(
                    "demo_stuck",
                    f"{what}: nothing has moved for {STUCK_S} s: {'; '.join(moving)}",
                    where=str(self.home / ".fhir-writeback" / "logs"),
                    mend="run it with --folder and read the logs there",
                )
            time.sleep(_POLL_S)


def unsettled(scene: Scene, report: TenantReport | None) -> Iterator[str]:
    """Why a hospital is not at rest, in words with counts; nothing if it is."""
    if report is None:
        yield f"{scene.id}: nothing read yet"
        return
    read = report.extracts + report.refused
    if read < scene.extracts:
        yield f"{scene.id}: {read} of {scene.extracts} files read"
    yield from (f"{scene.id}: {items} wait for {lane}" for lane, items in report.pending.items())
    for reason, rows in report.reasons.get("waiting", {}).items():
        if reason != "patient_unknown":
            yield f"{scene.id}: {rows} rows {reason}"


def _play(stage: Stage, progress: Progress) -> None:
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
    stage.settle("the correction")
    progress("    an old file comes again")
    deliver(lambda story: story.old)
    stage.settle("the old file")
    progress("7/7 looking into the EHRs")


def _deliver_same_bytes(home: Path, scene: Scene) -> None:
    """The very same files under other names: nothing new is read of them."""
    for file in scene.story.first:
        if file.rows:
            stem, _, kind = file.name.rpartition(".")
            replace(file, name=f"{stem}_again.{kind}").drop(zone_of(home, scene.story.hospital, file.source))


def _check(stage: Stage, result: Result) -> list[str]:
    """Fill in the tenants' part of the result and return what does not add up."""
    wrong = []
    reports = stage.reports()
    for scene in stage.scenes:
        report, truth = reports[scene.id], scene.truth
        finding = check.look(scene.ehr.chart, scene.story.hospital.identifier_system, truth.facts)
        told = report.to_json()
        result["tenants"][scene.id] = {
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
            raise ServiceError("folder_not_empty", "the demo makes its home anew", where=str(folder), mend="name an empty folder")
        yield folder.resolve()
        return
    made = Path(tempfile.mkdtemp(prefix="fhir-writeback-demo-"))
    try:
        yield made
    finally:
        with undisturbed():
            forget(made)
            shutil.rmtree(made, ignore_errors=True)


@contextmanager
def _stage(home: Path, ports: Mapping[str, int], progress: Progress) -> Iterator[Stage]:
    chosen = {name: value for name, value in os.environ.items() if name.startswith("FHIR_WRITEBACK_PORT_")}
    config = load_configuration(home, chosen, ports)
    with ExitStack() as stack:
        scenes = []
        for hospital in make_world():
            private, jwks = make_client_key(hospital.id)
            scenes.append(Scene(make_story(hospital), Sekmet(home / "ehr" / hospital.id, client_jwks=jwks), private))
        make_home(home, [(s.story.hospital, s.ehr.base_url, s.private_jwk) for s in scenes])
        progress("1/7 starting two FHIR servers with SMART Backend Services, and loading their charts")
        for scene in scenes:
            stack.enter_context(scene.ehr)
            chart = scene.story.hospital.chart()
            scene.ehr.load([*chart, *scene.story.filed])
            scene.patients = sum(r["resourceType"] == "Patient" for r in chart)
        progress("2/7 and 3/7 starting an embedded PostgreSQL, the code locations, Dagster's daemon and its webserver")
        up = stack.enter_context(running(config, lambda line: progress(f"    {line}"), durable=False))
        yield Stage(home, scenes, up)
