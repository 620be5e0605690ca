"""What a mirror holds, and what one refresh of it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fhir_writeback_dagster.config.tenants import Tenant

MirroredType = Literal["Patient", "Encounter", "Consent"]


@dataclass(frozen=True, slots=True)
class MirrorReport:
    """By resource type: how many were read, were new or changed, and were gone. ``full``: types that were listed completely.

    Of a mirror that is filled on demand: ``lookups`` by outcome, patients ``dropped`` because nobody needs them any more, and
    those ``refused``, whom the EHR does not show us.
    """

    read: Mapping[str, int] = field(default_factory=dict)
    changed: Mapping[str, int] = field(default_factory=dict)
    gone: Mapping[str, int] = field(default_factory=dict)
    full: tuple[str, ...] = ()
    requests: int = 0
    lookups: Mapping[str, int] = field(default_factory=dict)
    dropped: int = 0
    refused: int = 0
    defects: int = 0
    """Resources, or patients, that could not be kept as they came."""

    def metadata(self) -> dict[str, int | float | str]:
        counts = {"read": self.read, "changed": self.changed, "gone": self.gone, "lookups": self.lookups}
        return {
            **{f"{what}/{kind}": count for what, kinds in counts.items() for kind, count in sorted(kinds.items())},
            "listed completely": ", ".join(self.full) or "none",
            "dropped": self.dropped,
            "refused": self.refused,
            "defects": self.defects,
            "requests": self.requests,
        }


def mirrored(tenant: Tenant) -> tuple[MirroredType, ...]:
    """The types that a tenant's mirror holds."""
    return ("Patient", "Encounter", "Consent") if tenant.consent.source == "ehr" else ("Patient", "Encounter")
