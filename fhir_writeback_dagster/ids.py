"""Identifiers of ours: time-ordered, so that a B-tree grows at its end."""

from __future__ import annotations

import os
import time
import uuid


def new_id() -> uuid.UUID:
    """A UUID version 7 (RFC 9562, sections 5.7 and 6.2, method 3): 48 bits of Unix milliseconds, 12 of the fraction of the
    millisecond (so that ids made one after the other sort so), 62 random bits.
    """
    millis, nanos = divmod(time.time_ns(), 1_000_000)
    random = int.from_bytes(os.urandom(8), "big")
    value = (millis & (1 << 48) - 1) << 80 | 0x7 << 76 | (nanos * 4096 // 1_000_000) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    return uuid.UUID(int=value)
