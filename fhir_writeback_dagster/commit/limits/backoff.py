"""How long to wait before the next try."""

from __future__ import annotations

import random

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 300.0


def backoff(tries: int) -> float:
    """Seconds before the next try: doubling from one second to five minutes, with jitter, so that many do not come at once."""
    longest: float = min(FIRST_WAIT_S * 2 ** min(tries, 10), LONGEST_WAIT_S)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
