"""One JSON for what is hashed, sealed and sent: sorted keys, UTF-8, no spaces, decimals as written (never a float)."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder(decimal_format="number", order="sorted")
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=Decimal)


def encode(value: Any) -> bytes:
    """``Decimal("72.50")`` becomes ``72.50``: FHIR decimals keep their precision (R4, datatypes, decimal)."""
    return _encoder.encode(value)


def decode(data: bytes) -> Any:
    """Numbers with a point or exponent come back as :class:`~decimal.Decimal`.

    :raises msgspec.DecodeError: not JSON.
    """
    return _decoder.decode(data)


def sha256(value: Any) -> bytes:
    """SHA-256 of the canonical form, 32 bytes."""
    return hashlib.sha256(encode(value)).digest()
