"""The demo goes on when everything has come to rest, and says what to do where it does not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops.report import TenantReport
from fhir_writeback_dagster.sandbox.demo_environment import DemoEnvironment, Scene, unsettled
from fhir_writeback_dagster.sandbox.story.deliveries import make_story
from fhir_writeback_dagster.sandbox.story.hospitals import make_world


@pytest.fixture
def scene() -> Scene:
    scene = Scene(make_story(make_world()[0]), cast("Any", None), "")
    for file in scene.story.first:
        scene.truth.read(file.rows)
        scene.extracts += 1
    return scene


def _report(scene: Scene, **waiting: int) -> TenantReport:
    report = TenantReport(extracts=scene.extracts)
    report.reasons = {"waiting": waiting} if waiting else {}
    return report


def test_rows_of_the_patient_who_was_registered_late_are_waited_for(scene: Scene) -> None:
    """Written after the second delivery had begun, they were counted as its writes."""
    assert list(unsettled(scene, _report(scene, patient_unknown=scene.unregistered)))
    assert list(unsettled(scene, _report(scene, undecided=1)))
    assert list(unsettled(scene, _report(scene))) == []


def test_rows_of_a_patient_whom_the_ehr_never_hears_of_are_not_waited_for(scene: Scene) -> None:
    for file in scene.story.corrections:
        scene.truth.read(file.rows)
        scene.extracts += 1
    forever = scene.truth.reasons["waiting", "patient_unknown"]
    assert forever > 0
    assert list(unsettled(scene, _report(scene, patient_unknown=forever))) == []
    assert list(unsettled(scene, _report(scene, patient_unknown=forever + 1)))


def test_past_its_time_the_demo_says_what_to_do(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = SimpleNamespace(tend=lambda: None)
    stage = DemoEnvironment(tmp_path, [scene], cast("Any", running), patience_s=0)
    monkeypatch.setattr(DemoEnvironment, "reports", lambda _: {scene.id: _report(scene, undecided=3)})
    with pytest.raises(ServiceError, match=r"the first delivery: .*3 rows undecided \[demo_slow\] — .*--patience 60.*--folder"):
        stage.settle("the first delivery")
