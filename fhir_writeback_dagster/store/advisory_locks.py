"""Advisory locks of PostgreSQL: named here, so that no two purposes share a number by accident.

A lock is known to the server by a number of 64 bits only. :func:`number_of` makes it from a purpose and what is locked; it must
not change, because two versions of this project may work on one database while one replaces the other. Two locks are numbered
where they are taken, in SQL: that of each patient of a claim (`claim_patients.sql`) and that of ``ops.register_tenant``.

A session's lock goes with its connection, a transaction's with the transaction: whoever dies leaves none behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from psycopg import Connection

# A lock of 64 bits shows as its two halves; ``objsubid`` 2 would be a lock of two numbers of 32.
_HOLDERS = """
SELECT l.pid, l.classid::bigint << 32 | l.objid::bigint AS number
FROM pg_catalog.pg_locks l
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
  AND (l.classid::bigint << 32 | l.objid::bigint) = ANY (%s::bigint[])
"""


def number_of(purpose: str, *parts: str) -> int:
    """The lock's number, a signed integer of 64 bits."""
    digest = hashlib.sha256("|".join((purpose, *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def lock_session(connection: Connection[Any], number: int) -> None:
    """Wait until the lock is this session's."""
    connection.execute("SELECT pg_advisory_lock(%s)", (number,))


def try_lock_session(connection: Connection[Any], number: int) -> bool:
    """Take the lock for this session if nobody else holds it; a session that has it already keeps it, and takes it once only."""
    mine = connection.info.backend_pid
    if any(pid == mine for pid, _ in connection.execute(_HOLDERS, ([number],))):
        return True
    return connection.execute("SELECT pg_try_advisory_lock(%s)", (number,)).fetchone() == (True,)


def unlock_session(connection: Connection[Any], number: int) -> None:
    """Give a session's lock back."""
    connection.execute("SELECT pg_advisory_unlock(%s)", (number,))


def lock_transaction(connection: Connection[Any], number: int) -> None:
    """Wait until the lock is this transaction's; it is given back when that ends."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (number,))


def holder(connection: Connection[Any], number: int) -> str | None:
    """The application name of the session that holds the lock, as any login may see it; None: nobody does."""
    for pid, _ in connection.execute(_HOLDERS, ([number],)).fetchall():
        row = connection.execute("SELECT application_name FROM pg_catalog.pg_stat_activity WHERE pid = %s", (pid,)).fetchone()
        return str(row[0]) if row else None
    return None


def held(connection: Connection[Any], numbers: Sequence[int]) -> set[int]:
    """Those of ``numbers`` that some session holds."""
    return {number for _, number in connection.execute(_HOLDERS, (list(numbers),))}
