"""Every drill at small size on one stage: a real PostgreSQL, a real FHIR server, workers that are processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner

from fhir_writeback_dagster.sandbox.drills import environment as stages
from fhir_writeback_dagster.sandbox.drills import verdict, worker_pool
from fhir_writeback_dagster.sandbox.drills.catalogue import BY_NAME, Drill
from fhir_writeback_dagster.sandbox.drills.command import drill_command
from fhir_writeback_dagster.sandbox.drills.environment import DrillEnvironment, open_stage
from fhir_writeback_dagster.sandbox.drills.run import DrillResult, play
from fhir_writeback_dagster.sandbox.drills.setup_tenant import admit
from fhir_writeback_dagster.sandbox.drills.verdict import DrillVerdict, find
from fhir_writeback_dagster.sandbox.fault_proxy.faults import Repeat
from fhir_writeback_dagster.sandbox.fault_proxy.personality import Personality
from fhir_writeback_dagster.sandbox.fault_proxy.script import FaultRule
from fhir_writeback_dagster.sandbox.story.expected import Value

WRITES = 24
NOTHING_WRONG = DrillVerdict(duplicates=0, lost=0, wrongly_sent=0, unaccounted=0, with_people=0, reconciled=0)


@pytest.fixture(scope="module")
def stage() -> Iterator[DrillEnvironment]:
    with open_stage("sekmet", lambda _: None, durable=False) as opened:
        yield opened


@pytest.mark.parametrize("name", list(BY_NAME))
def test_its_promises_hold(stage: DrillEnvironment, name: str) -> None:
    result = play(BY_NAME[name], stage, WRITES)
    assert result.held, result.table()
    assert sum(result.faults.values()) > 0, "nothing went wrong: the drill proves nothing"
    assert result.finding.reconciled > 0 or not BY_NAME[name].reconciles, "nothing was in doubt: the drill proves nothing"
    assert list(result.to_json()) == [
        "drill",
        "writes",
        "duplicates",
        "lost",
        "unaccounted",
        "wrongly_sent",
        "reconciled",
        "faults",
        "recovery_s",
        "held",
        "with_people",
        "may_ask",
    ]


@pytest.mark.parametrize("name", ["two-workers", "kill-worker"])
def test_an_engine_that_sends_again_unseen_is_caught(stage: DrillEnvironment, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "WORKER", [sys.executable, str(Path(__file__).with_name("resending_worker.py"))])
    result = play(BY_NAME[name], stage, WRITES)
    assert result.finding.duplicates > 0, result.table()
    assert not result.held


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Drill:
    """A line that sends creates twice to an EHR that ignores `If-None-Exist`: the tier that promises nothing then."""
    drill = replace(
        BY_NAME["duplicate-delivery"],
        name="broken",
        rules=[FaultRule("arrived_twice", Repeat(), on=("create",), count=3)],
        personality=Personality(ignores_if_none_exist=True),
    )
    monkeypatch.setitem(BY_NAME, "duplicate-delivery", drill)
    return drill


def test_a_broken_promise_is_seen_and_is_exit_code_1(
    stage: DrillEnvironment, broken: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def this_stage(*_: object) -> Iterator[DrillEnvironment]:
        yield stage

    monkeypatch.setattr(stages, "open_stage", this_stage)
    run = CliRunner().invoke(drill_command, ["duplicate-delivery", "--writes", str(WRITES), "--json"])
    assert run.exit_code == 1
    told = json.loads(run.stdout)
    assert (told["drill"], told["held"], told["duplicates"], told["faults"]) == ("broken", False, 3, {"arrived_twice": 3})


def _in_ehr(stage: DrillEnvironment, patient: str) -> list[dict[str, Any]]:
    return stage.server.chart.search("Observation", patient=f"Patient/{patient}")


def test_what_is_wrong_in_the_ehr_is_counted_whatever_the_ledger_says(
    stage: DrillEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward = admit(stage, "finding", 6, 1)
    rows = ward.rows()
    ward.deliver(rows)
    ward.work()
    ward.settle()
    ward.crew.dismiss()
    assert find(ward) == NOTHING_WRONG
    chart, facts = stage.server.chart, [row.fact for row in rows if row.fact]
    (gone,), (twice,), (changed,), (unwanted,), (overwritten,), _ = (_in_ehr(stage, fact.chart_id) for fact in facts)

    def added(wrong: Callable[[], Any], **counts: int) -> None:
        before = find(ward)
        wrong()
        after = find(ward)
        assert after == replace(before, **{name: getattr(before, name) + more for name, more in counts.items()})

    added(lambda: chart.delete("Observation", gone["id"]), lost=1, unaccounted=1)
    added(lambda: chart.create({k: v for k, v in twice.items() if k not in ("id", "identifier")}), duplicates=1, unaccounted=1)
    value = {**changed["valueQuantity"], "value": changed["valueQuantity"]["value"] + 9}
    added(lambda: chart.update({**changed, "valueQuantity": value}), lost=1, wrongly_sent=1)
    added(lambda: ward.wanted.update({facts[3]: None}), wrongly_sent=1)
    ward.theirs.add(facts[4])
    code, number, unit = rows[4].value.parts[0]
    assert not isinstance(number, str)
    added(lambda: ward.wanted.update({facts[4]: Value(((code, number + 5, unit),))}), wrongly_sent=1)
    ledger = verdict._ledger
    asked = {"with_people": frozenset({facts[2]})}
    with_person = partial(monkeypatch.setattr, verdict, "_ledger", lambda context: replace(ledger(context), **cast("Any", asked)))
    added(with_person, lost=-1, with_people=1)
    ward.rows_told += 1
    assert find(ward).unaccounted == 3
    assert unwanted["id"] != overwritten["id"]


def test_the_list_describes_every_drill() -> None:
    run = CliRunner().invoke(drill_command, ["--list"])
    assert run.exit_code == 0
    assert all(
        drill.name in run.stdout and drill.about in run.stdout and drill.promise in run.stdout for drill in BY_NAME.values()
    )
    assert CliRunner().invoke(drill_command, []).exit_code == 2
    assert CliRunner().invoke(drill_command, ["no-such"]).exit_code == 2


def test_one_who_may_not_ask_a_person_breaks_its_promise_when_it_does() -> None:
    found = replace(NOTHING_WRONG, with_people=2)
    result = DrillResult(BY_NAME["downtime"], 10, found, {}, recovery_s=0.0, seconds=1.0, may_ask=1)
    assert not result.held
    assert replace(result, may_ask=2).held
