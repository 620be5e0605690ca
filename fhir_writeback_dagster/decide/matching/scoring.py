"""Whose row this could be, by demographics: Fellegi and Sunter's weights, with two thresholds. Pure.

A level of agreement weighs ``log2(m / u)`` bits: how often it is seen between records of one person (m) and of two (u). Both
are set by judgement and checked on FEBRL (docs/matching.md), or learnt from a hospital's own rows (:mod:`decide.match_learn`); u
of an equal value is that of a common one, whatever the value, since the mirror's values are sealed. The sum, from one chance in
the size of the chart on, makes a probability.

A probability alone never matches by itself: twins, and a father and a son of one name, agree in nearly everything. An
automatic match also needs the names and the birth date, and nobody else as near; address and phone only add to what they say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fhir_writeback_dagster.decide.matching.comparison import (
    CLOSE,
    DIFFERS,
    PARTIAL,
    SAME,
    SWAPPED,
    ComparedPerson,
    Levels,
    compare,
)

_SURE = (SAME, SWAPPED)
_HOME = frozenset(("line", "city", "postal_code", "state", "phone"))
_HOUSEHOLD = 3  # persons

#: Field → level → (m, u).
Weights = Mapping[str, Mapping[str, tuple[float, float]]]

#: As set; u of SAME is for a value as common as most.
WEIGHTS: Weights = {
    "given": {SAME: (0.82, 0.01), CLOSE: (0.10, 0.03), SWAPPED: (0.03, 0.001), DIFFERS: (0.05, 0.95)},
    "family": {SAME: (0.84, 0.005), CLOSE: (0.08, 0.01), SWAPPED: (0.03, 0.001), DIFFERS: (0.05, 0.98)},
    "birth_date": {SAME: (0.90, 1 / 25000), CLOSE: (0.06, 0.001), PARTIAL: (0.02, 0.03), DIFFERS: (0.02, 0.97)},
    "sex": {SAME: (0.99, 0.5), DIFFERS: (0.01, 0.5)},
    "line": {SAME: (0.55, 0.0005), CLOSE: (0.30, 0.002), PARTIAL: (0.08, 0.15), DIFFERS: (0.07, 0.85)},
    "city": {SAME: (0.80, 0.02), CLOSE: (0.12, 0.01), DIFFERS: (0.08, 0.97)},
    "postal_code": {SAME: (0.84, 0.01), CLOSE: (0.08, 0.02), DIFFERS: (0.08, 0.97)},
    "state": {SAME: (0.93, 0.2), CLOSE: (0.04, 0.1), DIFFERS: (0.03, 0.7)},
    "phone": {SAME: (0.75, 0.0002), CLOSE: (0.05, 0.0005), DIFFERS: (0.20, 1.0)},
}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Probabilities: from ``auto`` on a match may be automatic, from ``review`` on a person is asked."""

    auto: float = 0.999
    review: float = 0.01


@dataclass(frozen=True, slots=True)
class Candidate:
    """A patient of the chart who could be the row's; ``levels`` are codes by field, kept as evidence."""

    patient_id: str
    bits: float
    levels: Levels

    @property
    def probability(self) -> float:
        return probability_of(self.bits)


@dataclass(frozen=True, slots=True)
class MatchVerdict:
    """``candidates`` from ``review`` on, the most probable first; the first is the match if the outcome is ``auto``."""

    outcome: Literal["auto", "review", "none"]
    candidates: tuple[Candidate, ...] = ()
    reason: str | None = None


class Model:
    """Weights for a chart of ``size`` patients."""

    def __init__(self, size: int, weights: Weights = WEIGHTS) -> None:
        self._prior = -math.log2(max(size, 2))
        self._most_of_home = -self._prior - math.log2(_HOUSEHOLD)
        self._bits = {name: {level: math.log2(m / u) for level, (m, u) in levels.items()} for name, levels in weights.items()}

    def compare(self, row: ComparedPerson, chart: ComparedPerson) -> Levels:
        """:func:`matching_fields.compare` by these weights."""
        return compare(row, chart, self._sum)

    def score(self, row: ComparedPerson, chart: ComparedPerson, patient_id: str) -> Candidate:
        levels = self.compare(row, chart)
        return Candidate(patient_id, self._prior + self._sum(levels) - self._excess(levels), levels)

    def _excess(self, levels: Levels) -> float:
        """What equal address and phone add too much: who shares them is one of a household, which mostly shares the family
        name too, and no field of a home tells its people apart.
        """
        home = self._sum({name: level for name, level in levels.items() if name in _HOME})
        family = self._sum({"family": levels.get("family", "")})
        return max(home - max(self._most_of_home - max(family, 0), 0), 0)

    def _sum(self, levels: Levels) -> float:
        return sum(self._bits[name][level] for name, level in levels.items() if level)


def probability_of(bits: float) -> float:
    """The probability that a weight stands for: 0 bits are even odds, 10 bits 1,000 to 1."""
    return 1 / (1 + math.exp2(-max(min(bits, 500.0), -500.0)))


def decide(candidates: Sequence[Candidate], thresholds: Thresholds, *, doubting: bool = True) -> MatchVerdict:
    """Put the scored candidates of one row together; not ``doubting`` asks what the probability alone would do."""
    near = sorted((c for c in candidates if c.probability >= thresholds.review), key=lambda c: (-c.bits, c.patient_id))
    if not near:
        return MatchVerdict("none", reason="patient_unknown")
    best, others = near[0], near[1:]
    if best.probability < thresholds.auto:
        return MatchVerdict("review", tuple(near), "below_threshold")
    if any(other.probability >= thresholds.auto or best.bits - other.bits < 10 for other in others):
        return MatchVerdict("review", tuple(near), "several_candidates")
    doubt = doubt_of(best.levels) if doubting else None
    return MatchVerdict("review", tuple(near), doubt) if doubt else MatchVerdict("auto", tuple(near))


def doubt_of(levels: Levels) -> str | None:
    """Why a probable pair is not matched without a person; None if nothing speaks against it."""
    given, family, birth = levels.get("given"), levels.get("family"), levels.get("birth_date")
    if any(levels.get(name) == DIFFERS for name in ("given", "family", "birth_date", "sex")):
        return "contradiction"
    if birth == PARTIAL:
        return "birth_date_alike"
    if given not in _SURE:
        return "given_name_not_the_same"  # twins: all the rest agrees
    return None if family in _SURE and birth == SAME else "name_or_birth_date_not_the_same"


def doubt_of_shared(levels: Levels) -> str | None:
    """The same for a pair that bears one social security number, as a child may bear a parent's."""
    if levels.get("given") not in _SURE:
        return "given_name_not_the_same"
    home = levels.get("phone") == SAME or (
        levels.get("line") in (SAME, CLOSE) and SAME in (levels.get("postal_code"), levels.get("city"))
    )
    return None if levels.get("family") in _SURE or levels.get("birth_date") == SAME or home else "identifier_alone"
