"""Whose row this could be, by demographics: Fellegi and Sunter's weights, with blocking and two thresholds. Pure.

A level of agreement weighs ``log2(m / u)`` bits: how often it is seen between records of one person (m) and of two (u). Both
are set by judgement and checked on FEBRL (docs/matching.md), or learnt from a hospital's own rows (:mod:`decide.match_learn`); u
of an equal value is how frequent that value is in the chart, so that two Smiths weigh less than two Zelenkas. The sum, from one
chance in the size of the chart on, makes a probability.

A probability alone never matches by itself: twins, and a father and a son of one name, agree in nearly everything. An
automatic match also needs the names and the birth date, or an identifier with no contradiction, and nobody else as near.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fhir_writeback_dagster.decide.matching_fields import CLOSE, DIFFERS, PARTIAL, SAME, SWAPPED, Person, compare, is_date
from fhir_writeback_dagster.rules.phonetic import sound

#: Field → level → (m, u).
Weights = Mapping[str, Mapping[str, tuple[float, float]]]

#: As set; u of SAME is for a value as common as most, where no chart tells.
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
    "ssn": {SAME: (0.92, 0.000002), CLOSE: (0.05, 0.00005), DIFFERS: (0.03, 1.0)},
    "mrn": {SAME: (0.97, 0.000002), CLOSE: (0.01, 0.0005), DIFFERS: (0.02, 1.0)},
}
_BY_FREQUENCY = ("given", "family", "birth_date", "city", "postal_code", "state")
_MOST_IN_BLOCK = 400
#: As if this many records had been seen with the default's frequency: three patients tell nothing of a name.
_PRIOR = 500


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Probabilities: from ``auto`` on a match may be automatic, from ``review`` on a person is asked."""

    auto: float = 0.999
    review: float = 0.1


@dataclass(frozen=True, slots=True)
class Candidate:
    """A patient of the chart who could be the row's; ``levels`` are codes by field, kept as evidence."""

    patient_id: str
    bits: float
    levels: Mapping[str, str]

    @property
    def probability(self) -> float:
        return probability_of(self.bits)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``candidates`` from ``review`` on, the most probable first; the first is the match if the outcome is ``auto``."""

    outcome: Literal["auto", "review", "none"]
    candidates: tuple[Candidate, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class Model:
    """Weights for a chart of ``size`` patients; without ``frequencies`` every value counts as common."""

    size: int
    frequencies: Mapping[str, Mapping[object, int]] = field(default_factory=dict)
    weights: Weights = field(default_factory=lambda: WEIGHTS)

    def score(self, row: Person, chart: Person, patient_id: str) -> Candidate:
        levels = compare(row, chart)
        bits = -math.log2(max(self.size, 2))
        for name, level in levels.items():
            m, u = self.weights[name][level]
            if level == SAME and name in self.frequencies:
                u = self._frequency(name, getattr(chart, name), u)
            bits += math.log2(m / u)
        return Candidate(patient_id, bits, levels)

    def _frequency(self, name: str, value: object, default: float) -> float:
        """How frequent a value is, by the chart as far as it is large enough to tell; never below a fifth of the default."""
        seen = self.frequencies[name].get(value, 0)
        return max((seen + _PRIOR * default) / (self.size + _PRIOR), default / 5)


def model_of(chart: Iterable[Person], size: int, weights: Weights = WEIGHTS) -> Model:
    """``weights`` with how frequent the values of the chart are."""
    counts: dict[str, Counter[object]] = {name: Counter() for name in _BY_FREQUENCY}
    for person in chart:
        for name, counter in counts.items():
            counter[getattr(person, name)] += 1
    return Model(size, counts, weights)


def probability_of(bits: float) -> float:
    """The probability that a weight stands for: 0 bits are even odds, 10 bits 1,000 to 1."""
    return 1 / (1 + math.exp2(-max(min(bits, 500.0), -500.0)))


def decide(candidates: Sequence[Candidate], thresholds: Thresholds, *, doubting: bool = True) -> Verdict:
    """Put the scored candidates of one row together; not ``doubting`` asks what the probability alone would do."""
    near = sorted((c for c in candidates if c.probability >= thresholds.review), key=lambda c: (-c.bits, c.patient_id))
    if not near:
        return Verdict("none", reason="patient_unknown")
    best, others = near[0], near[1:]
    if best.probability < thresholds.auto:
        return Verdict("review", tuple(near), "below_threshold")
    if any(other.probability >= thresholds.auto or best.bits - other.bits < 10 for other in others):
        return Verdict("review", tuple(near), "several_candidates")
    doubt = doubt_of(best.levels) if doubting else None
    return Verdict("review", tuple(near), doubt) if doubt else Verdict("auto", tuple(near))


def doubt_of(levels: Mapping[str, str]) -> str | None:
    """Why a probable pair is not matched without a person; None if nothing speaks against it."""
    given, family, birth = levels.get("given"), levels.get("family"), levels.get("birth_date")
    if any(levels.get(name) == DIFFERS for name in ("given", "family", "birth_date", "sex", "ssn", "mrn")):
        return "contradiction"
    if birth == PARTIAL:
        return "birth_date_alike"
    if levels.get("mrn") == CLOSE:
        return "identifier_alike"  # numbers are given in order: the neighbour's is as near as a slip of the pen
    home = levels.get("phone") == SAME or (
        levels.get("line") in (SAME, CLOSE) and SAME in (levels.get("postal_code"), levels.get("city"))
    )
    sure = [level in (SAME, SWAPPED) for level in (given, family, birth)]
    if levels.get("mrn") == SAME:
        return None if sum(sure) >= 2 or (sum(sure) == 1 and home) else "identifier_alone"
    if not sure[0]:
        return "given_name_not_the_same"  # twins: all the rest agrees, and both may bear a parent's social security number
    if levels.get("ssn") == SAME:
        return None if sum(sure) >= 2 or home else "identifier_alone"
    if sum(sure) == 3 or (home and birth in (SAME, CLOSE) and sum(sure) == 2):
        return None
    return "name_or_birth_date_not_the_same"


class Index:
    """A chart in memory, blocked: only patients that share a key with a row are compared with it."""

    def __init__(self, chart: Mapping[str, Person], weights: Weights = WEIGHTS) -> None:
        self._chart = chart
        self._blocks: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for patient_id, person in chart.items():
            for key in block_keys(person):
                self._blocks[key].append(patient_id)
        self.model = model_of(chart.values(), len(chart), weights)

    def candidates(self, row: Person) -> list[Candidate]:
        ids = {
            patient_id
            for key in block_keys(row)
            if len(self._blocks.get(key, ())) <= _MOST_IN_BLOCK
            for patient_id in self._blocks.get(key, ())
        }
        return [self.model.score(row, self._chart[patient_id], patient_id) for patient_id in ids]


def block_keys(person: Person) -> set[tuple[str, ...]]:
    """Keys of which two records of one person share at least one, whatever single field is wrong."""
    given = {sound(form[0]) for form in person.given}
    family = {sound("".join(form)) for form in person.family} | {sound(word) for form in person.family for word in form}
    keys: set[tuple[str, ...]] = {(name, value) for name in ("ssn", "mrn", "phone") if (value := getattr(person, name))}
    if is_date(person.birth_date):
        keys.add(("birth", person.birth_date))
        keys.add(("birth", person.birth_date[:4], *sorted((person.birth_date[4:6], person.birth_date[6:]))))
    keys |= {("names", *sorted((g, f))) for g in given for f in family}
    keys |= {("name", "year", name, person.birth_date[:4]) for name in given | family if len(person.birth_date) >= 4}
    keys |= {("name", "post", name, person.postal_code) for name in given | family if person.postal_code}
    keys |= {("name", "line", name, word) for name in given | family for word in person.line if len(word) > 3}
    keys |= {("name", "day", name, person.birth_date[4:]) for name in given | family if len(person.birth_date) == 8}
    keys |= {("line", "post", word, person.postal_code) for word in person.line if person.postal_code}
    return keys
