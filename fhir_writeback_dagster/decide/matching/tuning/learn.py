"""``fhir-writeback match learn``: Fellegi and Sunter's m and u from a hospital's own rows, of which it knows whose they are.

m of a level is its share among pairs of one person, u among pairs drawn at random from rows and chart. Both start from the set
weights, as if these had been seen in some pairs already, so that few rows change little and no level ever weighs infinitely.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fhir_writeback_dagster.decide.matching.comparison import DIFFERS, SAME, ComparedPerson, person_of
from fhir_writeback_dagster.decide.matching.scoring import WEIGHTS, Model, Weights
from fhir_writeback_dagster.decide.matching.tuning.tables import read_chart, read_truth
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.rules.people import demographics

#: As if the set weights had been seen in so many pairs of one person, and of two.
PRIOR_PAIRS = 100
#: Of two persons, for each row: enough that a level seen once in ten thousand pairs is seen.
RANDOM_PAIRS = 50


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    learnt_from: dict[str, int] = Field(default_factory=dict)
    weights: dict[str, dict[str, tuple[float, float]]]


def learn(chart: Mapping[str, ComparedPerson], rows: Sequence[tuple[str, ComparedPerson]], seed: int = 1) -> Weights:
    """Field → level → (m, u); the same rows always teach the same.

    :param rows: whose each is ("": nobody's) and what it says.
    """
    same: dict[str, Counter[str]] = defaultdict(Counter)
    other: dict[str, Counter[str]] = defaultdict(Counter)
    model = Model(len(chart))
    drawn, ids = random.Random(seed), list(chart)  # noqa: S311 - no secret
    for truth, row in rows:
        if truth:
            _count(same, model.compare(row, chart[truth]))
        for patient in drawn.choices(ids, k=RANDOM_PAIRS) if ids else ():
            if patient != truth:
                _count(other, model.compare(row, chart[patient]))
    return {
        field: {level: (_share(same[field], level, m), _share(other[field], level, u)) for level, (m, u) in levels.items()}
        for field, levels in WEIGHTS.items()
    }


def _count(counts: dict[str, Counter[str]], levels: Mapping[str, str]) -> None:
    for field, level in levels.items():
        counts[field][level] += 1


def _share(counts: Counter[str], level: str, prior: float) -> float:
    return (counts[level] + PRIOR_PAIRS * prior) / (counts.total() + PRIOR_PAIRS)


def load_weights(path: Path) -> Weights:
    """Weights that ``match learn`` wrote.

    :raises ConfigError: not such a file, a field or level too many or missing, no probability, or agreement that weighs less
        than contradiction.
    """
    try:
        return _load(path, path.stat().st_mtime_ns)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError("file_unreadable", reason, where=str(path), fix="write it with `match learn --out`") from None


@lru_cache(maxsize=16)
def _load(path: Path, _changed: int) -> Weights:
    try:
        weights = _File.model_validate_json(path.read_bytes()).weights
    except ValidationError:
        raise ConfigError("bad_weights", "not a file of `match learn`", where=str(path), fix="write it anew") from None
    if {field: set(levels) for field, levels in weights.items()} != {field: set(levels) for field, levels in WEIGHTS.items()}:
        raise ConfigError("bad_weights", "not the fields and levels of this version", where=str(path), fix="learn them anew")
    for field, levels in weights.items():
        if not all(0 < share <= 1 for pair in levels.values() for share in pair):
            raise ConfigError("bad_weights", f"{field}: not a probability", where=str(path), fix="learn them anew")
        if _bits(levels[SAME]) <= _bits(levels[DIFFERS]):
            raise ConfigError(
                "bad_weights",
                f"{field}: what is equal weighs less than what differs",
                where=str(path),
                fix="the rows that taught it are mixed up: see that `patient_id` is right",
            )
    return weights


def _bits(pair: tuple[float, float]) -> float:
    return math.log2(pair[0] / pair[1])


@click.command("learn")
@click.option("--patients", type=click.Path(path_type=Path), required=True, help="CSV of the chart, as for `match evaluate`.")
@click.option("--truth", type=click.Path(path_type=Path), required=True, help="CSV of rows with `patient_id`.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Write the weights there, as JSON.")
def learn_command(*, patients: Path, truth: Path, out: Path) -> None:
    """Learn the weights of matching from your own rows. Evaluate them on other rows than those: `match evaluate --weights`.

    The file holds shares by field and level, nothing of a patient.
    """
    chart = {patient: person_of(demographics.of_patient(resource)) for patient, resource in read_chart(patients).items()}
    rows = [(known, person_of(demographics.of_row(ref))) for known, ref in read_truth(truth, chart)]
    known = sum(1 for patient, _ in rows if patient)
    if not known:
        raise ConfigError("bad_table", "no row says whose it is", where=str(truth), fix="fill `patient_id`")
    weights = learn(chart, rows)
    document: dict[str, Any] = {"learnt_from": {"patients": len(chart), "rows": known}, "weights": weights}
    try:
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError("not_writable", type(error).__name__, where=str(out), fix="name a file in a folder of yours") from None
    click.echo(f"{known} rows of {len(chart)} patients; bits of what is equal and of what differs:")
    for field, levels in weights.items():
        click.echo(f"  {field:<12} {_bits(levels[SAME]):>6.1f} {_bits(levels[DIFFERS]):>6.1f}")
