"""What a tenant's mode asks of one write; decide asks when it rules, commit again right before sending."""

from __future__ import annotations

from fhir_writeback_dagster.config.tenants import Mode, ModeSettings


def sample_parts(business_key: str, content_hash: bytes) -> tuple[str, str, str]:
    """What the tenant's keyed digest of :func:`in_sample` is made of."""
    return "sample", business_key, content_hash.hex()


def in_sample(digest: bytes, modes: ModeSettings) -> bool:
    """Is this content of this fact among the share that a person sees under ``sampled``?

    ``digest`` is the HMAC of :func:`sample_parts` under the tenant's identity key: the answer is the same whenever
    and wherever it is asked, and nobody without the key can foresee it.
    """
    return int.from_bytes(digest[:8]) < modes.sample * 2**64


def needs_person(mode: Mode, *, sampled: bool) -> bool:
    """Does the mode by itself send a write to a person? ``sampled``: the write is in the sample."""
    return mode == "review_all" or (mode == "sampled" and sampled)


def writes(mode: Mode) -> bool:
    """May anything be written at all?"""
    return mode not in ("off", "shadow")
