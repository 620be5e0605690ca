"""Modes are changed in the tenant's file, audited however that was done, and raising them sends nothing old by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from conftest import MakeTenant, OpenLayer
from decide.stage import Stage
from support import Database

from fhir_writeback_dagster.config.tenants import ModeSettings, load_tenant
from fhir_writeback_dagster.decide.commands.mode import replay_command, set_command, show_command
from fhir_writeback_dagster.decide.ruling.mode_changes import replay, with_modes
from fhir_writeback_dagster.errors import ConfigError


@pytest.fixture
def stage(make_tenant: MakeTenant, open_run: OpenLayer) -> Stage:
    stage = Stage(make_tenant(None, modes={"default": "shadow"}, consent={"none_found": "permit"}), open_run)
    stage.mirror({"id": "p100", "mrn": "100"})
    return stage


@pytest.fixture
def changes(stage: Stage, database: Database) -> Callable[[], list[dict[str, Any]]]:
    def told() -> list[dict[str, Any]]:
        with psycopg.connect(database.superuser) as connection:
            query = "SELECT detail FROM audit.event WHERE tenant = %s AND type = 'mode.changed' ORDER BY id"
            return [row[0] for row in connection.execute(query, (stage.tenant.tenant,))]

    return told


def test_the_command_changes_the_file_and_says_who_and_why(
    stage: Stage, changes: Callable[[], list[dict[str, Any]]], home: Path
) -> None:
    stage.decide()
    name = stage.tenant.tenant
    stage.ask(set_command, name, "review_all", "--type", "Observation", "--reason", "pilot ward", "--by", "ada")
    modes = load_tenant(home / "tenants", name).modes
    assert (modes.of("Observation"), modes.of("Condition")) == ("review_all", "shadow")
    last = changes()[-1]
    assert (last["by"], last["reason"]) == ("ada", "pilot ward")
    assert (last["from"]["by_type"], last["to"]["by_type"]) == ({}, {"Observation": "review_all"})
    assert "review_all" in stage.ask(show_command).output


def test_a_change_by_hand_is_audited_by_the_next_run_once(
    stage: Stage, changes: Callable[[], list[dict[str, Any]]], home: Path
) -> None:
    stage.decide()
    path = home / "tenants" / f"{stage.tenant.tenant}.yaml"
    path.write_text(path.read_text().replace("default: shadow", "default: auto"))
    stage.decide()
    stage.decide()
    assert [(c["from"]["default"], c["to"]["default"], c["by"]) for c in changes()] == [
        ("off", "shadow", "tenant_file"),
        ("shadow", "auto", "tenant_file"),
    ]


def test_what_was_held_back_goes_only_when_it_is_replayed(stage: Stage) -> None:
    record = stage.tell()
    stage.decide()
    name = stage.tenant.tenant
    assert "1 writes that were held back" in stage.ask(set_command, name, "auto", "--reason", "go live").output
    assert stage.decide().decided == 0
    assert stage.ask(replay_command, name, "--reason", "load the pilot's data").exit_code == 0
    stage.decide()
    candidate = stage.candidate(record)
    assert (candidate["state"], candidate["revision"]) == ("approved", 1)


def test_nothing_is_replayed_into_a_mode_that_writes_nothing(stage: Stage, open_run: OpenLayer) -> None:
    stage.tell()
    stage.decide()
    with open_run("decide", stage.tenant) as run, pytest.raises(ConfigError, match="mode_writes_nothing"):
        replay(run, None, "ada", "too early")


@pytest.mark.parametrize(
    "text",
    [
        "tenant: a  # ours\nmodes:\n  default: off\n  by_type:\n    Observation: shadow  # pilot\n\n# who may\nconsent: {}\n",
        "tenant: a  # ours\nmodes: {default: off}\n\n# who may\nconsent: {}\n",
        "tenant: a  # ours\n\n# who may\nconsent: {}",
        "modes: {default: off}\ntenant: a  # ours\n# who may\nconsent: {}\n",
    ],
    ids=["block", "flow", "absent", "first"],
)
def test_nothing_else_of_the_file_changes(text: str) -> None:
    changed = with_modes(text, ModeSettings(default="off", by_type={"Observation": "sampled"}, sample=0.25))
    assert yaml.safe_load(changed) == {
        "tenant": "a",
        "modes": {"default": False, "by_type": {"Observation": "sampled"}, "sample": 0.25},  # `off` is a word to our loader
        "consent": {},
    }
    assert "# ours" in changed
    assert "# who may" in changed
