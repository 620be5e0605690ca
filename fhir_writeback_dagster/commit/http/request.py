"""One HTTP request, whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fhir_writeback_dagster.commit.limits.rate_windows import CallKind


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, and how long it may take.

    ``url`` is absolute. `commit.fhir_client` also takes what is relative to the FHIR base (empty: the base itself), and what
    begins with a slash and so is below the host: the vendor's own API, for which a FHIR base has no place. ``deadline`` is on
    `time.monotonic`'s scale: the exchange is over by then, and does not begin after it. ``kind`` and ``entries`` are what the
    target's rate windows count; ``had_turn``: the sender has waited for its turn already.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    kind: CallKind = "read"
    deadline: float | None = None
    entries: int = 1
    had_turn: bool = False
