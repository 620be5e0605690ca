"""What the demo runs on: two hospitals' EHRs and everything of `up`, in a home made for it; and how to wait for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops.configuration import load_configuration
from fhir_writeback_dagster.ops.database import Progress
from fhir_writeback_dagster.ops.report import TenantReport, read_report
from fhir_writeback_dagster.ops.running import Running, running
from fhir_writeback_dagster.sandbox.demo_home import make_home, zone_of
from fhir_writeback_dagster.sandbox.keys import make_client_key
from fhir_writeback_dagster.sandbox.servers.sekmet import Sekmet
from fhir_writeback_dagster.sandbox.story.deliveries import Story, make_story
from fhir_writeback_dagster.sandbox.story.expected import Truth
from fhir_writeback_dagster.sandbox.story.files import File
from fhir_writeback_dagster.sandbox.story.hospitals import make_world

PATIENCE_S = 900
"""How long one part of the story may take. Two minutes are usual for the whole of it on two cores."""
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
        return sum(row.plant == "late" for file in self.story.first for row in file.rows)

    def deliver(self, folder: Path, files: Sequence[File]) -> None:
        """Drop files into the landing zones, and keep in mind what must become of them."""
        for file in files:
            file.drop(zone_of(folder, self.story.hospital, file.source))
            self.truth.read(file.rows)
            self.extracts += 1
            self.truth.refused += not file.rows


@dataclass(slots=True)
class DemoEnvironment:
    """All that runs while the demo plays."""

    home: Path
    scenes: list[Scene]
    running: Running
    patience_s: float = PATIENCE_S

    def reports(self) -> dict[str, TenantReport]:
        """Where every row stands now, by tenant; as `status` tells it."""
        return read_report(self.running.dsns.of("status"))

    def settle(self, what: str) -> None:
        """Wait until every file that was dropped is read and every row has come to an end.

        :raises ServiceError: not within the time that a part may take; says what is left, and what to do.
        """
        self._until(what, lambda reports: [why for scene in self.scenes for why in unsettled(scene, reports.get(scene.id))])

    def until_read(self, what: str) -> None:
        """Wait until ingest has read every file that was dropped.

        :raises ServiceError: as `settle`.
        """

        def unread(reports: Mapping[str, TenantReport]) -> list[str]:
            return [
                f"{s.id}: {s.extracts} files dropped"
                for s in self.scenes
                if s.id not in reports or reports[s.id].extracts + reports[s.id].refused < s.extracts
            ]

        self._until(what, unread)

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
        deadline = time.monotonic() + self.patience_s
        while moving := left(self.reports()):
            self.running.tend()
            if time.monotonic() > deadline:
                raise ServiceError(
                    "demo_slow",
                    f"{what}: after {self.patience_s / 60:.0f} minutes there is left: {'; '.join(moving)}",
                    where=str(self.home / ".fhir-writeback" / "logs"),
                    fix="on a busy machine give it more time (--patience 60), else run it with --folder and read the logs there",
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
    # Nobody but those whom the EHR never hears of is unknown in the end: the late patient's rows have to come to theirs too.
    forever = scene.truth.reasons["waiting", "patient_unknown"]
    for reason, rows in report.reasons.get("waiting", {}).items():
        if reason != "patient_unknown" or rows != forever:
            yield f"{scene.id}: {rows} rows {reason}"


@contextmanager
def staged(home: Path, ports: Mapping[str, int], progress: Progress, patience_s: float = PATIENCE_S) -> Iterator[DemoEnvironment]:
    """Everything is up and the charts are loaded while the block runs; no process is left afterwards.

    :raises ServiceError: a port is taken, or something does not start.
    """
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
        yield DemoEnvironment(home, scenes, up, patience_s)
