"""The database for asynchronous code: one thread, one connection, one transaction after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from psycopg import Connection

from fhir_writeback_dagster.workplace import Workplace

T = TypeVar("T")


class Database:
    """``async with Database(w) as db: await db.run(work)``; the loop stays free while Postgres works."""

    def __init__(self, w: Workplace) -> None:
        self._w = w
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit-db")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown(wait=True)

    async def run(self, work: Callable[[Connection[Any]], T]) -> T:
        """``work`` in one transaction of the tenant; committed when it returns.

        :raises ServiceError: the database went away; the transaction did not happen, or did and nobody can say.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transaction, work)

    def _transaction(self, work: Callable[[Connection[Any]], T]) -> T:
        with self._w.store.tenant(self._w.id) as connection:
            return work(connection)
