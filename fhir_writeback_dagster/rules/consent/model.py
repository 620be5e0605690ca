"""What a consent is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from fhir_writeback_dagster.rules.fhir.codes import SystemCode

Effect = Literal["permit", "deny"]


@dataclass(frozen=True, slots=True)
class ConsentRequest:
    """What is to be written and why.

    ``purpose`` is a code of v3-ActReason, ``actor`` our organisation's reference as consents name it (None: not configured),
    ``codings`` and ``labels`` are (system, code) of all codes in the resource and of its security labels, ``at`` is now (with
    offset) and ``event`` the first and last instant that the data can be about, if that is known. ``coded`` is False where what
    it is about is told in words only. ``zone`` is the one in which the dates of consents are meant (None: it may be any).
    """

    purpose: str
    actor: str | None
    resource_type: str
    codings: tuple[SystemCode, ...]
    labels: tuple[SystemCode, ...]
    at: datetime
    event: tuple[datetime, datetime] | None = None
    coded: bool = True
    zone: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "purpose": self.purpose,
            "actor": self.actor,
            "resource_type": self.resource_type,
            "codings": [list(c) for c in self.codings],
            "labels": [list(c) for c in self.labels],
            "at": self.at.isoformat(),
            "event": None if self.event is None else [t.isoformat() for t in self.event],
            "coded": self.coded,
            "zone": self.zone,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ConsentRequest:
        event = data.get("event")
        return cls(
            purpose=data["purpose"],
            actor=data["actor"],
            resource_type=data["resource_type"],
            codings=tuple((system, code) for system, code in data["codings"]),
            labels=tuple((system, code) for system, code in data["labels"]),
            at=datetime.fromisoformat(data["at"]),
            event=None if event is None else (datetime.fromisoformat(event[0]), datetime.fromisoformat(event[1])),
            coded=data.get("coded", True),
            zone=data.get("zone"),
        )


@dataclass(frozen=True, slots=True)
class ConsentDecision:
    """``outcome`` with the Consent that decided (its id and ``meta.versionId``), the path of the provision, and a reason code.

    ``none``: no consent speaks about this; the tenant's ``consent.none_found`` decides. The outcome holds no value of a consent.
    """

    outcome: Literal["permit", "deny", "none"]
    consent_id: str | None = None
    version: str | None = None
    provision: str | None = None
    reason: str = "no_consent"
    unplaced: bool = False
    """A consent whose patient nobody can tell would deny it: this is for a person to look at, whatever the outcome says."""
