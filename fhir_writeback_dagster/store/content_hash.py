"""Hashes of content: equal for equal payloads of a tenant, and no help to whoever tries values.

A payload holds one measurement, so an unkeyed hash of it gives the measurement back after some minutes of trying (measured). A
content hash is ``0x01 | HMAC-SHA256(content key, SHA-256(canonical JSON))``, 33 bytes. The key is random, one a tenant, and
stands in ``ops.content_key``, wrapped by the sealing key: unlike the identity key it has no generations, because
hashes of years are compared with today's.
"""

from __future__ import annotations

import hmac
import os
from typing import Any

from psycopg import Connection

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.store.sealing import Sealer

_VERSION = b"\x01"
_BLOCK = 64


class ContentHasher:
    """Hashes one tenant's payloads; see :func:`content_hasher`."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, payload: Any) -> bytes:
        """The content hash of ``payload``, 33 bytes."""
        return _VERSION + hmac.digest(self._key, canonicaljson.sha256(payload), "sha256")

    def blocks(self) -> tuple[bytes, bytes]:
        """The inner and the outer block of HMAC (RFC 2104), by which SQL computes it."""
        padded = self._key.ljust(_BLOCK, b"\0")
        return bytes(byte ^ 0x36 for byte in padded), bytes(byte ^ 0x5C for byte in padded)


def content_hasher(connection: Connection[Any], tenant: str, sealer: Sealer) -> ContentHasher:
    """The tenant's hasher; its key is made on first use. In a transaction of decide's role.

    Hashes that a version before content keys left are replaced then, and for a day afterwards: a run of that version may
    have been under way.

    :raises SecretError: the tenant's sealing key is not the one that the content key was wrapped by.
    """
    connection.execute(
        "INSERT INTO ops.content_key (tenant, wrapped, sweep_until) SELECT %(tenant)s, %(wrapped)s, "
        "CASE WHEN EXISTS (SELECT FROM decision.candidate WHERE tenant = %(tenant)s) THEN now() + interval '1 day' END "
        "WHERE NOT EXISTS (SELECT FROM ops.content_key WHERE tenant = %(tenant)s) ON CONFLICT DO NOTHING",
        {"tenant": tenant, "wrapped": sealer.wrap(os.urandom(32))},
    )
    row = connection.execute("SELECT wrapped, sweep_until > now() FROM ops.content_key WHERE tenant = %s", (tenant,)).fetchone()
    assert row is not None
    hasher = ContentHasher(sealer.unwrap(bytes(row[0]), "content key"))
    if row[1]:
        connection.execute("SELECT ops.key_content(%s, %s)", hasher.blocks())
    return hasher
