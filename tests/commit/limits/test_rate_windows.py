"""Rate windows: kept over processes, by the database's clock, in the order of those who ask."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from commit.faults import FaultyLine, Say, Seen
from commit.world import World, heart_rate, patient

from fhir_writeback_dagster.commit.ledger.async_database import AsyncDatabase
from fhir_writeback_dagster.commit.limits.rate_windows import CallKind, RateLimiter, RateWindow, take

AT = "2024-03-01T10:00:00Z"


def _take(world: World, window: RateWindow, least: int, portion: int) -> tuple[int, float]:
    with world.run.store.tenant(world.run.id) as connection:
        return take(connection, world.run, window, least, portion)


def test_a_window_gives_no_more_than_it_has_and_begins_anew_with_the_next(world: World) -> None:
    window = RateWindow("points", "minute", 100)
    assert [_take(world, window, 10, 45)[0] for _ in range(4)] == [45, 45, 10, 0]
    granted, seconds = _take(world, window, 10, 45)
    assert granted == 0
    assert 0 < seconds <= 60
    world.change("UPDATE ledger.rate SET starts_at = starts_at - interval '1 minute' WHERE tenant = %s")
    assert _take(world, window, 10, 45)[0] == 45


def test_what_is_left_but_too_little_is_not_taken(world: World) -> None:
    window = RateWindow("points", "minute", 100)
    assert [_take(world, window, least, least)[0] for least in (90, 20, 10)] == [90, 0, 10]


def test_two_processes_share_a_window(make_world: Callable[..., World]) -> None:
    world = make_world(ehr={"limits": {"per_second": 20}})
    leaving: list[float] = []

    async def worker(pace: RateLimiter) -> None:
        for _ in range(30):
            assert await pace.turn("write")
            leaving.append(time.time())

    async def both() -> None:
        with world.another() as other:
            async with AsyncDatabase(world.run) as one, AsyncDatabase(other) as two:
                await asyncio.gather(worker(RateLimiter(world.run, one)), worker(RateLimiter(other, two)))

    asyncio.run(both())
    assert max(Counter(int(at) for at in leaving).values()) <= 20
    assert len(leaving) == 60


def test_a_dear_request_costs_its_points_for_each_entry(make_world: Callable[..., World]) -> None:
    limits = {"points_per_minute": 1000, "points": {"write": 100, "search": 20, "read": 1}}
    world = make_world(ehr={"limits": limits})

    async def work() -> None:
        async with AsyncDatabase(world.run) as db:
            pace = RateLimiter(world.run, db)
            assert [await pace.turn("write", 4), await pace.turn("search"), await pace.turn("read")] == [True, True, True]

    asyncio.run(work())
    ((used,),) = world.rows("SELECT used FROM ledger.rate WHERE tenant = %s")
    assert 421 <= used <= 421 + 125


def test_a_write_that_is_repeated_with_a_new_token_has_its_turn_as_a_write_again(
    make_world: Callable[..., World], line: FaultyLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(ehr={"base_url": line.base_url, "bundle_size": 2, "limits": {"points_per_minute": 5000}})
    world.load(patient("a", "a"))
    world.refresh()
    world.approve_all([heart_rate("a", f"2024-03-01T10:0{n}:00Z", 70) for n in range(2)])
    turns: list[tuple[str, int]] = []
    turn = RateLimiter.turn

    async def noted(pace: RateLimiter, kind: CallKind, entries: int = 1) -> bool:
        turns.append((kind, entries))
        return await turn(pace, kind, entries)

    monkeypatch.setattr(RateLimiter, "turn", noted)
    refused = [Say(401)]
    line.rules.append(lambda seen: refused.pop() if refused and seen.method == "POST" and not seen.path else None)
    assert world.commit().counts["created"] == 2
    # A new token is a read between the two.
    assert [one for one in turns if one[0] == "write"] == [("write", 2), ("write", 2)]


def test_the_vendors_window_is_kept_to_where_the_tenant_names_none(make_world: Callable[..., World]) -> None:
    for limits, used in (({}, [("per_minute", True)]), ({"per_minute": None}, [])):
        world = make_world(ehr={"vendor": "medplum", "limits": limits})
        world.refresh()
        assert world.rows("SELECT name, used BETWEEN 1 AND 6000 FROM ledger.rate WHERE tenant = %s") == used


def test_nobody_waits_for_a_turn_once_the_run_ends(make_world: Callable[..., World]) -> None:
    world = make_world(ehr={"limits": {"per_minute": 1}})

    async def work() -> tuple[bool, bool, float]:
        async with AsyncDatabase(world.run) as db:
            pace, began = RateLimiter(world.run, db), time.monotonic()
            first = await pace.turn("read")
            second = asyncio.create_task(pace.turn("read"))
            await asyncio.sleep(0.05)
            pace.stop()
            return first, await second, time.monotonic() - began

    first, second, seconds = asyncio.run(work())
    assert (first, second) == (True, False)
    assert seconds < 5


def test_a_run_keeps_the_pace_and_writes_everything(make_world: Callable[..., World], line: FaultyLine) -> None:
    world = make_world(ehr={"base_url": line.base_url, "limits": {"per_second": 10}})
    world.load(*(patient(f"p{n}", f"p{n}") for n in range(10)))
    world.refresh()
    world.approve_all([heart_rate(f"p{n}", AT, 72) for n in range(10)])
    came: list[float] = []

    def note(seen: Seen) -> Any:
        came.append(time.time())

    line.rules.append(note)
    assert world.commit().counts["created"] == 10
    # A request comes a moment after its turn, so a second may see a few of the one before.
    assert max(Counter(int(at) for at in came).values()) <= 10 + world.tenant.ehr.concurrency


def test_a_minute_that_is_used_up_ends_the_run_without_an_attempt(make_world: Callable[..., World], line: FaultyLine) -> None:
    world = make_world(ehr={"base_url": line.base_url, "limits": {"per_minute": 40}})
    world.load(patient("a", "a"))
    world.refresh()
    world.approve_all([heart_rate("a", f"2024-03-01T10:{n:02d}:00Z", 70) for n in range(60)])
    came: list[float] = []

    def note(seen: Seen) -> Any:
        came.append(time.time())

    line.rules.append(note)
    world.commit(deadline_s=4)
    assert max(Counter(int(at // 60) for at in came).values()) <= 40 + world.tenant.ehr.concurrency
    states: dict[str, int] = dict(world.rows("SELECT state, count(*) FROM ledger.intent WHERE tenant = %s GROUP BY 1"))
    assert states.keys() <= {"committed", "ready"}
    written = states.get("committed", 0)  # a busy machine writes few in four seconds
    assert written == len(world.ehr.search("Observation"))
    assert world.rows("SELECT count(*) FROM ledger.attempt WHERE tenant = %s") == [(written,)]
