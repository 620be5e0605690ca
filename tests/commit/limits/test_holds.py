"""What holds a target back: people, the cap, blackouts, its own word, its silence; and that it goes on afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from click.testing import CliRunner
from commit.faults import FaultyLine, First, Say
from commit.world import World, heart_rate, patient
from psycopg import Connection
from psycopg.errors import LockNotAvailable

from fhir_writeback_dagster.commit.commands import target_commands
from fhir_writeback_dagster.commit.limits import holds
from fhir_writeback_dagster.config.tenants import Blackout
from fhir_writeback_dagster.errors import TargetError

AT = "2024-03-01T10:00:00Z"
PENDING = "SELECT (SELECT items FROM ops.pending('commit') p WHERE p.tenant = %s)"


def command(world: World, name: str, *arguments: str) -> str:
    """What ``fhir-writeback target NAME`` prints."""

    @contextmanager
    def open_runs(layer: str, tenant: str | None) -> Iterator[Iterator[Any]]:
        with world.another() as context:
            yield iter([context])

    run = getattr(target_commands, f"{name}_command")
    result = CliRunner().invoke(run, [world.run.id, *arguments], obj=open_runs, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def _two(world: World) -> None:
    world.load(patient("a", "a"), patient("b", "b"))
    world.approve_all([heart_rate("a", AT, 72), heart_rate("b", AT, 73)])


def test_a_paused_target_is_sent_nothing_and_no_run_is_asked_for_until_it_is_resumed(faulty: World, line: FaultyLine) -> None:
    _two(faulty)
    assert "is paused" in command(faulty, "pause", "--reason", "maintenance", "--by", "ann")
    assert faulty.commit().held == "paused"
    assert line.seen == []
    assert faulty.owner_rows(PENDING) == [(None,)]
    command(faulty, "resume", "--reason", "done", "--by", "ann")
    assert faulty.owner_rows(PENDING) == [(2,)]
    assert faulty.commit().counts["created"] == 2
    told = faulty.owner_rows("SELECT type, detail FROM audit.event WHERE tenant = %s AND type LIKE 'target.%%' ORDER BY id")
    assert told == [
        ("target.paused", {"by": "ann", "why": "maintenance"}),
        ("target.resumed", {"by": "ann", "why": "done"}),
    ]


def test_a_pause_is_seen_before_the_next_marker(faulty: World, line: FaultyLine) -> None:
    _two(faulty)
    pause = First(lambda: command(faulty, "pause", "--reason", "stop", "--by", "ann"))
    line.rules.append(lambda seen: pause if seen.path == "Observation/_search" else None)
    report = faulty.commit()
    assert (report.held, report.waiting) == ("paused", {"ready": 2})
    assert line.sent("POST", "Observation") == []


def test_a_draining_target_takes_up_nothing_new_and_ends_what_it_has(make_world: Callable[..., World], line: FaultyLine) -> None:
    faulty = make_world(ehr={"base_url": line.base_url, "concurrency": 1})
    _two(faulty)
    line.on("POST", "Observation", Say(429, (("Retry-After", "60"),)))
    assert faulty.commit().held == "throttled"
    command(faulty, "drain", "--reason", "upgrade", "--by", "ann")
    faulty.approve(heart_rate("a", "2024-03-02T10:00:00Z", 74))
    faulty.change("UPDATE ledger.work SET not_before = now() WHERE tenant = %s")
    assert faulty.owner_rows(PENDING) == [(None,)]
    faulty.change("UPDATE ledger.target SET held_until = now() WHERE tenant = %s")
    assert faulty.owner_rows(PENDING) == [(2,)]
    assert faulty.commit().counts["created"] == 2
    assert faulty.owner_rows(PENDING) == [(None,)]
    assert json.loads(command(faulty, "show", "--json"))["desired_state"] == "draining"
    command(faulty, "resume", "--reason", "done")
    assert faulty.commit().counts["created"] == 1


def test_the_cap_stops_what_exceeds_it_until_a_person_releases_it(make_world: Callable[..., World]) -> None:
    world = make_world(ehr={"limits": {"writes_per_day": 3}})
    world.load(patient("a", "a"))
    world.approve_all([heart_rate("a", f"2024-03-01T10:0{n}:00Z", 70) for n in range(8)])
    report = world.commit()
    assert (report.counts["created"], report.held, report.waiting) == (3, "cap", {"ready": 5})
    assert world.commit().held == "cap"
    assert len(world.ehr.search("Observation")) == 3
    assert world.owner_rows(PENDING) == [(None,)]
    assert "until a person releases it (cap)" in command(world, "show")
    command(world, "release", "--reason", "a backlog of ours", "--by", "ann")
    report = world.commit()
    assert (report.counts["created"], report.held, report.waiting) == (3, "cap", {"ready": 2})
    kinds = [
        k for (k,) in world.owner_rows("SELECT type FROM audit.event WHERE tenant = %s AND type LIKE 'target.%%' ORDER BY id")
    ]
    assert kinds == ["target.capped", "target.released", "target.capped"]


def test_releasing_the_cap_does_not_release_a_drift_that_nobody_has_seen(make_world: Callable[..., World]) -> None:
    world = make_world(ehr={"limits": {"writes_per_day": 1}})
    world.load(patient("a", "a"))
    world.approve_all([heart_rate("a", f"2024-03-01T10:0{n}:00Z", 70) for n in range(3)])
    assert world.commit().held == "cap"
    smart = httpx.get(f"{world.ehr.base_url}/.well-known/smart-configuration").json()
    world.change(
        "INSERT INTO ledger.snapshot (tenant, target, body, findings, approved_by, drifted) "
        "VALUES (%s, 'ehr', %s, '[]', 'ann', true)",
        json.dumps({"smart": {"token_endpoint": smart["token_endpoint"]}}),
    )
    told = command(world, "release", "--reason", "a backlog of ours", "--by", "ann")
    assert "drift" in told
    assert "target probe" in told
    assert world.commit().held == "drift"
    assert len(world.ehr.search("Observation")) == 1
    world.change("UPDATE ledger.snapshot SET drifted = false WHERE tenant = %s")
    assert "released" in command(world, "release", "--reason", "looked at", "--by", "ann")
    assert world.commit().counts["created"] == 1


def test_the_usual_day_makes_a_cap_once_three_are_known(make_world: Callable[..., World]) -> None:
    world = make_world(ehr={"limits": {"times_usual": 2, "writes_per_day": 5000}})

    def cap() -> int | None:
        with world.run.store.tenant(world.run.id) as connection:
            return holds.cap(connection, world.run)

    insert = (
        "INSERT INTO ledger.sent SELECT %s, 'ehr', date_trunc('hour', now()) - make_interval(days => d), 300, 300 "
        "FROM generate_series(2, 3) d"
    )
    world.change(insert)
    assert cap() == 5000
    world.change(insert.replace("(2, 3)", "(4, 6)"))
    assert cap() == 600


@pytest.mark.parametrize(
    ("now", "seconds"),
    [
        ("2024-03-02T21:59:00-05:00", 0),  # Saturday
        ("2024-03-02T22:00:00-05:00", 4 * 3600),
        ("2024-03-03T01:30:00-05:00", 1800),
        ("2024-03-03T02:00:00-05:00", 0),
        ("2024-03-03T23:00:00-05:00", 0),  # Sunday
        ("2024-03-09T23:00:00-05:00", 3 * 3600),
        ("2024-11-02T22:00:00-04:00", 5 * 3600),  # the night is an hour longer
    ],
)
def test_a_blackout_is_a_time_of_the_tenants_week(now: str, seconds: float) -> None:
    saturday = Blackout.model_validate({"days": ["sat"], "from": "22:00", "to": "02:00"})
    assert holds.blackout_s([saturday], "America/New_York", datetime.fromisoformat(now)) == seconds


def test_in_a_blackout_the_target_is_left_alone(make_world: Callable[..., World], line: FaultyLine) -> None:
    always = [{"from": "00:00", "to": "12:00"}, {"from": "12:00", "to": "00:00"}]
    world = make_world(ehr={"base_url": line.base_url, "limits": {"blackouts": always}})
    _two(world)
    assert world.commit().held == "blackout"
    assert line.seen == []


def test_no_marker_is_written_once_a_blackout_has_begun(make_world: Callable[..., World], line: FaultyLine) -> None:
    zone = ZoneInfo("America/New_York")
    begin = datetime.now(zone).replace(second=0) + timedelta(minutes=2)
    night = [{"from": f"{begin:%H:%M}", "to": f"{begin + timedelta(hours=1):%H:%M}"}]
    late = timedelta()
    world = make_world(
        clock=lambda: datetime.now(UTC) + late,
        time_zone=zone.key,
        ehr={"base_url": line.base_url, "concurrency": 1, "limits": {"blackouts": night}},
    )
    world.load(*(patient(f"p{n}", f"p{n}") for n in range(6)))
    world.approve_all([heart_rate(f"p{n}", AT, 72) for n in range(6)])

    def falls() -> None:
        nonlocal late
        late = timedelta(minutes=3)

    line.on("POST", "Observation", None, First(falls))
    report = world.commit()
    assert (report.counts["created"], report.held) == (2, "blackout")
    assert len(line.sent("POST", "Observation")) == 2
    assert sum(report.waiting.values()) == 4
    assert world.owner_rows(PENDING) == [(None,)]


@contextmanager
def two_transactions(world: World) -> Iterator[tuple[Connection[Any], Connection[Any], Callable[[], None]]]:
    """Of two workers, side by side: where the second would have to wait for the first it is told so (LockNotAvailable). The
    third is to call when the first has committed.
    """
    with world.another() as one, world.another() as other, ExitStack() as first:
        a = first.enter_context(one.store.tenant(one.id))
        with other.store.tenant(other.id) as b:
            b.execute("SET LOCAL lock_timeout = '200ms'")
            yield a, b, first.close


def _ask(connection: Connection[Any], world: World, limit: int | None = None) -> holds.Allowance:
    """As `allowance`; what has to wait leaves the transaction as it was."""
    with connection.transaction():
        return holds.allowance(connection, world.run, limit)


@pytest.mark.parametrize("known", [True, False])
def test_after_a_pause_has_returned_no_gate_is_open_any_more(world: World, known: bool) -> None:
    if known:
        command(world, "resume", "--reason", "known to the database", "--by", "ann")
    with two_transactions(world) as (gate, pause, commit):
        assert not _ask(gate, world).stopped
        with pytest.raises(LockNotAvailable), pause.transaction():
            holds.set_desired_state(pause, world.run, "paused", "ann", "stop")
        commit()
        holds.set_desired_state(pause, world.run, "paused", "ann", "stop")
    with two_transactions(world) as (resume, gate, commit):
        holds.set_desired_state(resume, world.run, "running", "ann", "go on")
        with pytest.raises(LockNotAvailable):
            _ask(gate, world)
        commit()
        assert not _ask(gate, world).stopped
    with two_transactions(world) as (one, other, _):
        assert _ask(one, world) == _ask(other, world), "workers do not wait for each other"


def test_two_workers_do_not_use_the_same_rest_of_the_cap(world: World) -> None:
    with two_transactions(world) as (one, other, commit):
        assert _ask(one, world, 3).left == 3
        holds.count(one, world.run, 3)
        with pytest.raises(LockNotAvailable):
            _ask(other, world, 3)
        commit()
        assert _ask(other, world, 3).left == 0


def test_a_target_that_is_down_is_asked_ever_more_rarely_and_by_a_read_first(faulty: World, line: FaultyLine) -> None:
    faulty.load(*(patient(f"p{n}", f"p{n}") for n in range(20)))
    faulty.approve_all([heart_rate(f"p{n}", AT, 72) for n in range(20)])
    faulty.refresh()
    line.always("POST", "Observation", Say(503))
    line.always("GET", "metadata", Say(503))
    longer = "SELECT failures, held_until > now() + make_interval(secs => %s) FROM ledger.target WHERE tenant = %s"
    assert faulty.commit().trouble
    assert faulty.rows(longer.replace("%s)", "1.4)", 1)) == [(1, True)]
    faulty.change("UPDATE ledger.target SET held_until = now(), failures = 5 WHERE tenant = %s")
    before = len(line.sent("POST", "Observation"))
    with pytest.raises(TargetError):
        faulty.commit()
    assert len(line.sent("POST", "Observation")) == before
    assert faulty.rows(longer.replace("%s)", "45)", 1)) == [(6, True)]
    assert faulty.commit().held == "down"
    line.rules.clear()
    faulty.change("UPDATE ledger.target SET held_until = now() WHERE tenant = %s")
    for _ in range(5):
        faulty.change("UPDATE ledger.work SET not_before = now() WHERE tenant = %s")
        faulty.commit()
    assert {state for state, *_ in faulty.intents()} == {"committed"}
    assert len(faulty.ehr.search("Observation")) == 20
    assert faulty.rows("SELECT failures FROM ledger.target WHERE tenant = %s") == [(0,)]


def test_what_one_is_told_to_wait_counts_for_all(make_world: Callable[..., World], line: FaultyLine) -> None:
    world = make_world(ehr={"base_url": line.base_url, "concurrency": 1})
    world.load(*(patient(f"p{n}", f"p{n}") for n in range(8)))
    world.approve_all([heart_rate(f"p{n}", AT, 72) for n in range(8)])
    line.on("POST", "Observation", None, Say(429, (("Retry-After", "120"),)))
    report = world.commit()
    assert (report.counts["created"], report.held) == (1, "throttled")
    assert len(line.sent("POST", "Observation")) == 2
    assert sum(report.waiting.values()) == 7
    assert report.waiting.keys() <= {"ready", "retry_wait"}


def test_a_search_that_is_throttled_holds_back_all_too(make_world: Callable[..., World], line: FaultyLine) -> None:
    world = make_world(ehr={"base_url": line.base_url, "concurrency": 1})
    world.load(*(patient(f"p{n}", f"p{n}") for n in range(8)))
    world.refresh()
    world.approve_all([heart_rate(f"p{n}", AT, 72) for n in range(8)])
    line.always("POST", "Observation/_search", Say(429, (("Retry-After", "120"),)))
    report = world.commit()
    assert (report.held, line.sent("POST", "Observation")) == ("throttled", [])
    assert len(line.sent("POST", "Observation/_search")) == 1
    assert report.waiting.keys() <= {"ready", "retry_wait"}
    assert world.commit().held == "throttled"


def test_the_kind_with_the_lowest_priority_number_goes_first(make_world: Callable[..., World], line: FaultyLine) -> None:
    world = make_world(ehr={"base_url": line.base_url, "concurrency": 1, "limits": {"priorities": {"lab_result": 10}}})
    world.load(*(patient(f"p{n}", f"p{n}") for n in range(3)))
    world.approve_all([heart_rate(f"p{n}", AT, 72) for n in range(2)])
    world.approve(heart_rate("p2", AT, 99), kind="lab_result")
    world.commit()
    first = json.loads(line.sent("POST", "Observation")[0].body)
    assert first["subject"]["reference"] == "Patient/p2"
