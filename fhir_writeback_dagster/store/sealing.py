"""Sealed columns: AES-256-GCM with a data key per tenant and month, bound to its place by associated data.

A sealed value is ``0x01 | year*12+month (2 bytes) | nonce (12) | ciphertext and tag``. The associated data is
``tenant|table|row id``: a value that is moved to another row, table or tenant does not open. Destroying a month's data key
shreds what was sealed in it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from psycopg import Connection

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.errors import SecretError, ServiceError

_VERSION = b"\x01"
_SHORTEST = 1 + 2 + 12 + 16


class Sealer:
    """Seals and opens one tenant's values; data keys are read, and made on first use, through ``connection``.

    ``connection`` must stand in a transaction of the tenant when a month is met first; afterwards the key is kept.
    """

    def __init__(self, tenant: str, wrapping_key: bytes, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._tenant, self._wrapping_key, self._now = tenant, wrapping_key, now
        self._months: dict[int, AESGCM] = {}

    def prepare(self, connection: Connection[Any]) -> None:
        """Load every data key of the tenant and make this month's if it is missing: afterwards sealing needs no database."""
        month = self._now().date().replace(day=1)
        fresh = self.wrap(os.urandom(32))
        connection.execute(
            "INSERT INTO ops.data_key (tenant, month, wrapped) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (self._tenant, month, fresh),
        )
        for row in connection.execute("SELECT month, wrapped FROM ops.data_key WHERE tenant = %s", (self._tenant,)):
            number = _number(row[0])
            if number not in self._months:
                self._months[number] = AESGCM(self.unwrap(bytes(row[1]), f"data key of {row[0]:%Y-%m}"))

    def wrap(self, key: bytes) -> bytes:
        """A key as it may be stored: wrapped by the tenant's sealing key."""
        return aes_key_wrap(self._wrapping_key, key)

    def unwrap(self, wrapped: bytes, what: str) -> bytes:
        """:raises SecretError: another sealing key wrapped it; the text names ``what``."""
        try:
            return aes_key_unwrap(self._wrapping_key, wrapped)
        except InvalidUnwrap:
            raise SecretError(
                "wrong_sealing_key",
                f"the sealing key of {self._tenant} does not open its {what}",
                fix="give the key that the tenant was set up with (`keys.sealing`)",
            ) from None

    def seal(self, table: str, row_id: object, value: bytes) -> bytes:
        month = self._now().date()
        number = _number(month)
        nonce = os.urandom(12)
        return (
            _VERSION
            + number.to_bytes(2, "big")
            + nonce
            + self._key(number).encrypt(nonce, value, f"{self._tenant}|{table}|{row_id}".encode())
        )

    def open(self, table: str, row_id: object, sealed: bytes) -> bytes:
        """:raises ServiceError: shredded, altered, or sealed for another place."""
        try:
            return self._decrypt(f"{self._tenant}|{table}|{row_id}", bytes(sealed))
        except InvalidTag:
            raise ServiceError(
                "not_openable",
                f"a sealed value of {table} does not open",
                where=f"{table} {row_id}",
                fix="its month's key was shredded, or the row was altered or copied: compare it with a backup",
            ) from None

    def _decrypt(self, place: str, sealed: bytes) -> bytes:
        if sealed[:1] != _VERSION or len(sealed) < _SHORTEST:
            raise InvalidTag
        return self._key(int.from_bytes(sealed[1:3], "big")).decrypt(sealed[3:15], sealed[15:], place.encode())

    def seal_json(self, table: str, row_id: object, value: Any) -> bytes:
        return self.seal(table, row_id, canonicaljson.encode(value))

    def open_json(self, table: str, row_id: object, sealed: bytes) -> Any:
        return canonicaljson.decode(self.open(table, row_id, sealed))

    def _key(self, number: int) -> AESGCM:
        try:
            return self._months[number]
        except KeyError:
            raise ServiceError(
                "data_key_missing",
                f"no data key of {self._tenant} for {(number - 1) // 12}-{(number - 1) % 12 + 1:02d}",
                fix="it was shredded, or prepare() was not called",
            ) from None


class Identity:
    """Keyed HMACs of identities: written under the newest generation of the identity key, looked up under every one."""

    def __init__(self, generations: list[bytes]) -> None:
        self._generations = generations

    def digest(self, *parts: str) -> bytes:
        return _hmac(self._generations[0], parts)

    def all(self, *parts: str) -> list[bytes]:
        """Newest generation first: what a lookup has to try."""
        return [_hmac(key, parts) for key in self._generations]


def _hmac(key: bytes, parts: tuple[str, ...]) -> bytes:
    # Each part goes with its length, so that no two lists of parts are the same bytes.
    message = b"".join(len(raw).to_bytes(4, "big") + raw for raw in (part.encode() for part in parts))
    return hmac.new(key, message, hashlib.sha256).digest()


def _number(month: date) -> int:
    return month.year * 12 + month.month
