"""`target show` and `status` in an outage, as a person reads them: what waits, since when, why, and when it is tried again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from commit.faults import FaultyLine, Say
from commit.world import World, heart_rate, patient
from support import Database

from fhir_writeback_dagster.commit.commands.target_commands import show_command
from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.ops.report import read_report, table


def _show(world: World, *arguments: str) -> str:
    @contextmanager
    def open_runs(layer: str, tenant: str | None) -> Iterator[Iterator[Any]]:
        with world.another() as context:
            yield iter([context])

    result = CliRunner().invoke(show_command, [world.run.id, *arguments], obj=open_runs, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def _approve(world: World, count: int) -> None:
    world.load(*(patient(str(n), str(n)) for n in range(count)))
    world.approve_all([heart_rate(str(n), "2024-03-01T10:00:00Z", 70 + n) for n in range(count)])


def test_in_an_outage_the_approved_and_unsent_writes_are_told_with_their_age_and_the_next_try(
    make_world: Callable[..., World], line: FaultyLine, database: Database
) -> None:
    world = make_world(ehr={"base_url": line.base_url})
    _approve(world, 1)
    assert world.commit().counts["created"] == 1
    world.approve_all([heart_rate("0", f"2024-03-0{n}T10:00:00Z", 70) for n in range(2, 8)])
    world.change("UPDATE decision.outbox SET since = now() - interval '5 minutes' WHERE tenant = %s")
    line.rules.append(lambda _: Say(503))
    for _ in range(3):
        with pytest.raises(TargetError):
            world.commit()
        world.change("UPDATE ledger.target SET held_until = now() WHERE tenant = %s")
    with pytest.raises(TargetError):
        world.commit()

    told = json.loads(_show(world, "--json"))
    assert (told["unsent"], told["failures"], told["held"]) == (6, 4, "down")
    assert told["next_try"] == told["held_until"] is not None
    assert told["last_success"] is not None
    assert told["answers"]["count"] == 1
    assert told["answers"]["p95_ms"] >= told["answers"]["p50_ms"] > 0
    text = _show(world)
    assert "held back for" in text
    assert "(down), 4 failures in a row" in text
    assert "waiting: 6 approved and unsent; the oldest since 5 min; next try in" in text
    assert "last success:" in text

    reports = read_report(database.dsn("status"), [world.run.id])
    assert reports[world.run.id].to_json()["targets"] == [{key: told[key] for key in told if key not in {"tenant", "warnings"}}]
    screen = table(reports)
    assert "6 approved and unsent; the oldest since 5 min" in screen
    assert len(screen.splitlines()) <= 24, "one screen"


def test_a_target_at_rest_is_told_as_that(make_world: Callable[..., World]) -> None:
    world = make_world()
    _approve(world, 1)
    assert world.commit().counts["created"] == 1
    lines = _show(world).splitlines()
    assert lines[0].endswith(" is running")
    assert lines[1] == "  waiting: nothing"
    assert "in the last hour: 1 answers, p50 " in lines[2]


def test_what_a_person_holds_has_no_next_try(make_world: Callable[..., World]) -> None:
    world = make_world(ehr={"limits": {"writes_per_day": 1}})
    _approve(world, 3)
    assert world.commit().held == "cap"
    told = json.loads(_show(world, "--json"))
    assert (told["unsent"], told["held"], told["next_try"]) == (2, "cap", None)
    assert "held back until a person releases it (cap)" in _show(world)


def test_no_other_layer_learns_how_a_target_answers(make_world: Callable[..., World], database: Database) -> None:
    make_world()
    for layer in ("ingest", "decide", "audit"):
        with psycopg.connect(database.dsn(layer)) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM ops.targets()")
