"""Locks of sessions and transactions, taken on a real PostgreSQL from several connections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import Connection

from fhir_writeback_dagster.store import advisory_locks
from fhir_writeback_dagster.store.db import connect

NUMBER = advisory_locks.number_of("test", "lock")


@pytest.fixture
def two(database: Any) -> Iterator[tuple[Connection[Any], Connection[Any]]]:
    with connect(database.dsn("commit"), application="one") as one, connect(database.dsn("ingest"), application="other") as other:
        yield one, other


def test_a_number_is_the_same_in_every_version() -> None:
    assert advisory_locks.number_of("lane", "ingest", "mercy") == 7_853_078_047_748_894_327


def test_a_session_takes_its_lock_once_however_often_it_asks(two: tuple[Connection[Any], Connection[Any]]) -> None:
    one, other = two
    assert [advisory_locks.try_lock_session(one, NUMBER) for _ in range(3)] == [True] * 3
    assert not advisory_locks.try_lock_session(other, NUMBER)
    assert advisory_locks.holder(other, NUMBER) == "one"
    advisory_locks.unlock_session(one, NUMBER)
    assert advisory_locks.holder(other, NUMBER) is None
    assert advisory_locks.try_lock_session(other, NUMBER)


def test_locks_that_are_held_are_told_from_those_that_are_not(two: tuple[Connection[Any], Connection[Any]]) -> None:
    one, other = two
    numbers = [advisory_locks.number_of("test", name) for name in "abc"]
    advisory_locks.lock_session(one, numbers[0])
    with other.transaction():
        advisory_locks.lock_transaction(other, numbers[2])
        assert advisory_locks.held(one, numbers) == {numbers[0], numbers[2]}
    assert advisory_locks.held(other, numbers) == {numbers[0]}
    one.close()
    assert advisory_locks.held(other, []) == set()
