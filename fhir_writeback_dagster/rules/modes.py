"""What a tenant's mode asks of one write; decide asks when it rules, commit again right before sending."""

from __future__ import annotations

from fhir_writeback_dagster.config.tenants import Mode, ModeSettings
from fhir_writeback_dagster.store.sealing import Identity


def in_sample(identity: Identity, modes: ModeSettings, business_key: str, content_hash: bytes) -> bool:
    """Is this content of this fact among the share that a person sees under ``sampled``?

    The same answer whenever and wherever it is asked, and one that nobody without the key can foresee.
    """
    digest = identity.digest("sample", business_key, content_hash.hex())
    return int.from_bytes(digest[:8]) < modes.sample * 2**64


def needs_person(mode: Mode, *, sampled: bool) -> bool:
    """Does the mode by itself send a write to a person? ``sampled``: the write is in the sample."""
    return mode == "review_all" or (mode == "sampled" and sampled)


def writes(mode: Mode) -> bool:
    """May anything be written at all?"""
    return mode not in ("off", "shadow")
