"""What would be sent is told without sending it: the same plan as the engine's, and no value unless somebody asks for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from click.testing import CliRunner
from commit.world import Candidate, World, consent, heart_rate, patient

from fhir_writeback_dagster.commit.commands.preview_commands import dry_run_command, shadow_command
from fhir_writeback_dagster.orchestration.run_context import RunContext

AT = "2024-03-01T10:00:00Z"


def ask(world: World, command: click.Command, *arguments: str) -> str:
    @contextmanager
    def open_runs(_layer: Any, _tenant: str | None) -> Iterator[Iterator[RunContext]]:
        yield iter([world.run])

    result = CliRunner().invoke(command, list(arguments), obj=open_runs)
    assert result.exit_code == 0, result.exception
    return result.stdout


def hold_back(world: World, *candidates: Candidate) -> None:
    """As decide leaves them where the mode is `shadow`."""
    ids = [one.candidate_id for one in candidates]
    world.change("DELETE FROM decision.outbox WHERE tenant = %s AND candidate_id = ANY (%s)", ids)
    world.change("UPDATE decision.candidate SET state = 'not_written' WHERE tenant = %s AND candidate_id = ANY (%s)", ids)


def test_shadow_tells_what_is_new_what_is_there_and_what_differs(world: World) -> None:
    there = heart_rate("a", "2024-03-01T11:00:00Z", 72)
    world.load(patient("a", "a"), consent("c", "a"), {**there, "id": "same"}, {**heart_rate("a", AT, 99), "id": "other"})
    world.refresh()
    new, same, other = world.approve_all([heart_rate("a", "2024-03-02T10:00:00Z", 70), there, heart_rate("a", AT, 71)])
    hold_back(world, new, same, other)
    told = json.loads(ask(world, shadow_command, "--json"))
    found = {one["candidate_id"]: one for one in told["previews"]}
    assert told["actions"] == {"create": 1, "nothing": 1, "review": 1}
    assert found[str(new.candidate_id)]["action"] == "create"
    assert found[str(same.candidate_id)]["reason"] == "chart_has_same"
    differs = found[str(other.candidate_id)]
    assert (differs["reason"], differs["differs"]) == ("chart_has_other", [{"op": "replace", "path": "/valueQuantity/value"}])
    assert len(world.ehr.search("Observation")) == 2, "nothing was sent"
    assert world.intents() == []


def test_values_are_shown_only_to_who_asks_and_that_is_audited(world: World) -> None:
    world.load(patient("a", "a"), consent("c", "a"), {**heart_rate("a", AT, 99), "id": "other-values"})
    world.refresh()
    (one,) = world.approve_all([heart_rate("a", AT, 71)])
    hold_back(world, one)
    for shown in (ask(world, shadow_command), ask(world, shadow_command, "--json"), ask(world, dry_run_command)):
        assert "71" not in shown.replace(str(one.candidate_id), "")
    assert world.events(one.candidate_id) == []
    shown = json.loads(ask(world, shadow_command, "--json", "--values"))
    assert [op["value"] for op in shown["previews"][0]["differs"]] == [71]
    assert world.events(one.candidate_id) == ["candidate.values_shown"]


def test_a_dry_run_is_the_request_that_commit_then_sends(world: World) -> None:
    world.load(patient("a", "a"), consent("c", "a"))
    world.refresh()
    (one,) = world.approve_all([heart_rate("a", "2024-03-03T10:00:00Z", 70)])
    (told,) = json.loads(ask(world, dry_run_command, "--json", "--kind", "vital_sign"))["previews"]
    request = told["request"]
    assert (told["action"], request["method"], request["path"], request["precondition"]) == (
        "create",
        "POST",
        "Observation",
        "if_none_exist",
    )
    assert one.business_key in request["headers"]["If-None-Exist"]
    assert "body" not in request
    assert world.commit().counts["created"] == 1
    assert json.loads(ask(world, dry_run_command, "--json"))["previews"] == [], "what is written is not planned again"
    assert "0 candidates" in ask(world, dry_run_command, "--kind", "document")
