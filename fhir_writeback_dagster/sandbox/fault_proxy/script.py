"""Rules: what goes wrong with which requests, and how often; the same under the same seed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from fhir_writeback_dagster.sandbox.fault_proxy.exchange import ProxyInteraction, ProxyRequest
from fhir_writeback_dagster.sandbox.fault_proxy.faults import Fault


@dataclass(frozen=True, slots=True)
class FaultRule:
    """``fault`` meets requests that fit, under ``name`` in the counts.

    :param on: interactions that it meets; none named: all.
    :param path: a regular expression that the path has to match from its beginning.
    :param probability: of each request that fits.
    :param count: how many requests it meets at most; None: no end.
    :param after: how many requests that fit pass before the first may be met.
    """

    name: str
    fault: Fault
    on: tuple[ProxyInteraction, ...] = ()
    path: str = ""
    probability: float = 1.0
    count: int | None = None
    after: int = 0

    def fits(self, request: ProxyRequest) -> bool:
        return (not self.on or request.interaction in self.on) and re.match(self.path, request.path) is not None


@dataclass(slots=True)
class _Running:
    """A rule with what has become of it: its own dice, so that rules do not disturb one another."""

    rule: FaultRule
    dice: Random
    seen: int = 0
    met: int = 0

    def meets(self, request: ProxyRequest) -> bool:
        if not self.rule.fits(request):
            return False
        self.seen += 1
        drawn = self.dice.random()  # one draw a request that fits: the n-th has the same fate under the same seed
        spent = self.rule.count is not None and self.met >= self.rule.count
        return self.seen > self.rule.after and not spent and drawn < self.rule.probability


@dataclass(slots=True)
class Script:
    """Which fault a request meets: that of the first rule that says so. ``counts`` has how often each did."""

    rules: Iterable[FaultRule] = ()
    seed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    _running: list[_Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._running = [
            _Running(rule, Random(f"{self.seed}/{number}/{rule.name}"))  # noqa: S311 - no secret
            for number, rule in enumerate(self.rules)
        ]

    def fate(self, request: ProxyRequest) -> Fault | None:
        """What goes wrong with this request; None: nothing."""
        met = [running for running in self._running if running.meets(request)]
        if not met:
            return None
        met[0].met += 1
        self.counts[met[0].rule.name] += 1
        return met[0].rule.fault
