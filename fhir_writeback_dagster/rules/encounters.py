"""What may still be written to an encounter; decide asks it for the verdict, and commit again before sending."""

from __future__ import annotations

#: FHIR Encounter.status values after which an encounter takes no new orders or notes.
CLOSED = frozenset({"finished", "cancelled", "entered-in-error"})

_ORDERS_AND_NOTES = frozenset({"medication_request", "document"})


def takes_no_more(status: str | None, kind: str) -> bool:
    """Is this an order or a note for an encounter that is closed? ``status`` None: it names no encounter."""
    return status in CLOSED and kind in _ORDERS_AND_NOTES
