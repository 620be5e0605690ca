"""``fhir-writeback match evaluate``: what the pipeline would do with a hospital's own rows, so that it sets its own thresholds.

It is the pipeline's own matching, on a chart in memory: the same keys, weights and rules, with ``probabilistic: auto``. The files
stay where they are and nothing of them is printed: counts and shares only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fhir_writeback_dagster.canonical import PatientRef
from fhir_writeback_dagster.decide.matching.demographic import Near, Rules, search, settle
from fhir_writeback_dagster.decide.matching.model import Match
from fhir_writeback_dagster.decide.matching.patients import identify
from fhir_writeback_dagster.decide.matching.scoring import WEIGHTS, Thresholds, Weights, decide, probability_of
from fhir_writeback_dagster.decide.matching.tuning.learn import load_weights
from fhir_writeback_dagster.decide.matching.tuning.plot import picture
from fhir_writeback_dagster.decide.matching.tuning.tables import COLUMNS, MemoryChart, read_chart, read_truth
from fhir_writeback_dagster.errors import ConfigError

_DEFAULT = Thresholds()

#: Where the curve looks: weights in bits, as thresholds of automatic matches (10 bits are a probability of 0.999).
CURVE = (-7, -5, -3, 0, 3, 5, 7, 10, 13, 17, 20, 25, 30)


@dataclass(frozen=True, slots=True)
class TruthRow:
    """A row of the truth file: who it is in the chart ("": nobody), what its identifiers come to, and who is near."""

    truth: str
    ref: PatientRef
    before: Match
    near: Near | None


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Counts of one pair of thresholds; shares are of rows, recalls of the rows whose patient is in the chart."""

    rows: int
    known: int
    auto: int
    auto_right: int
    review: int
    review_holds: int

    @property
    def auto_precision(self) -> float | None:
        return _share(self.auto_right, self.auto)

    @property
    def recall_auto(self) -> float | None:
        return _share(self.auto_right, self.known)

    @property
    def recall_with_review(self) -> float | None:
        """Also counts a row in review whose patient is among the candidates that the reviewer sees."""
        return _share(self.auto_right + self.review_holds, self.known)

    @property
    def review_share(self) -> float | None:
        return _share(self.review, self.rows)

    def to_json(self) -> dict[str, Any]:
        return {
            "auto": self.auto,
            "auto_precision": self.auto_precision,
            "recall_auto": self.recall_auto,
            "recall_with_review": self.recall_with_review,
            "review_share": self.review_share,
        }


@dataclass(frozen=True, slots=True)
class Point:
    """A point of the curve: with the rules that doubt (`doubt_of`), and by the probability alone."""

    bits: int
    result: EvaluationResult
    alone: EvaluationResult

    @property
    def threshold(self) -> float:
        return probability_of(self.bits)

    def to_json(self) -> dict[str, Any]:
        alone = {"auto": self.alone.auto, "auto_precision": self.alone.auto_precision, "recall_auto": self.alone.recall_auto}
        return {"threshold": self.threshold, "bits": self.bits, **self.result.to_json(), "probability_alone": alone}


#: Lines of the picture.
SERIES: dict[str, Callable[[Point], float | None]] = {
    "precision": lambda point: point.result.auto_precision,
    "recall, automatic": lambda point: point.result.recall_auto,
    "share in review": lambda point: point.result.review_share,
    "precision by probability alone": lambda point: point.alone.auto_precision,
}


def evaluate(
    patients: Path, truth: Path, thresholds: Thresholds, weights: Weights = WEIGHTS
) -> tuple[EvaluationResult, list[Point]]:
    """The result at ``thresholds``, and the curve over the threshold of automatic matches.

    :raises ConfigError: a file is missing, is no CSV, or lacks a column; with file and line.
    """
    chart = MemoryChart(read_chart(patients))
    rows = find(chart, list(read_truth(truth, chart.people)), weights)
    curve = []
    for bits in CURVE:
        at = Thresholds(probability_of(bits), min(thresholds.review, probability_of(bits)))
        curve.append(Point(bits, measure(chart, rows, at), _alone(rows, at)))
    return measure(chart, rows, thresholds), curve


def find(chart: MemoryChart, truth: Sequence[tuple[str, PatientRef]], weights: Weights = WEIGHTS) -> list[TruthRow]:
    """All that does not depend on thresholds."""
    before = identify(chart, [ref for _, ref in truth])
    near, _ = search(chart, before, weights)
    return [TruthRow(known, ref, before[ref], near.get(ref)) for known, ref in truth]


def match_of(chart: MemoryChart, row: TruthRow, thresholds: Thresholds) -> Match:
    """What :func:`matching.match_patients` answers of a tenant with these thresholds."""
    if row.near is None:
        return row.before
    return settle(row.ref, row.before, row.near, chart.people, Rules(thresholds, automatic=True))


def measure(chart: MemoryChart, rows: Sequence[TruthRow], thresholds: Thresholds) -> EvaluationResult:
    auto = auto_right = review = review_holds = 0
    for row in rows:
        match = match_of(chart, row, thresholds)
        if match.outcome == "matched":
            auto += 1
            auto_right += match.patient_id == row.truth
        elif match.outcome == "review":
            review += 1
            review_holds += row.truth in {match.patient_id, *(c["patient_id"] for c in match.evidence.get("candidates", ()))}
    return EvaluationResult(len(rows), sum(1 for row in rows if row.truth), auto, auto_right, review, review_holds)


def _alone(rows: Sequence[TruthRow], thresholds: Thresholds) -> EvaluationResult:
    """What the probability would match without the rules that doubt, of rows that no identifier brings to anybody."""
    auto = auto_right = 0
    for row in rows:
        found = row.before.patient_id if row.before.outcome == "matched" else None
        if found is None and row.near and row.before.patient_id is None:
            verdict = decide(row.near.candidates, thresholds, doubting=False)
            found = verdict.candidates[0].patient_id if verdict.outcome == "auto" else None
        if found is not None:
            auto += 1
            auto_right += found == row.truth
    return EvaluationResult(len(rows), sum(1 for row in rows if row.truth), auto, auto_right, 0, 0)


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


@click.command("evaluate")
@click.option("--patients", type=click.Path(path_type=Path), required=True, help=f"CSV of the chart: id, {', '.join(COLUMNS)}.")
@click.option(
    "--truth", type=click.Path(path_type=Path), required=True, help="CSV of rows: patient_id (empty: nobody) and the same."
)
@click.option("--auto", type=click.FloatRange(0, 1), default=_DEFAULT.auto, show_default=True, help="Automatic from here on.")
@click.option("--review", type=click.FloatRange(0, 1), default=_DEFAULT.review, show_default=True, help="A person from here on.")
@click.option("--weights", type=click.Path(path_type=Path), help="File of `match learn`. Default: the set weights.")
@click.option("--picture", "svg", type=click.Path(path_type=Path, dir_okay=False), help="Write the curve there, as SVG.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def evaluate_command(
    *, patients: Path, truth: Path, auto: float, review: float, weights: Path | None, svg: Path | None, as_json: bool
) -> None:
    """Precision and recall of demographic matching on your own data, and a curve over the threshold.

    Exit code 2 if a file cannot be read.
    """
    if review > auto:
        raise click.UsageError("--review is above --auto; an automatic match needs the higher probability")
    used = WEIGHTS if weights is None else load_weights(weights)
    result, curve = evaluate(patients, truth, Thresholds(auto, review), used)
    if svg is not None:
        _write(svg, picture({name: [(p.bits, take(p)) for p in curve] for name, take in SERIES.items()}))
    if as_json:
        click.echo(json.dumps({"rows": result.rows, **result.to_json(), "curve": [point.to_json() for point in curve]}))
    else:
        click.echo(_table(result, curve))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError("not_writable", type(error).__name__, where=str(path), fix="name a file in a folder of yours") from None


def _table(result: EvaluationResult, curve: Sequence[Point]) -> str:
    head = f"{'bits':>4} {'probability':>13} {'auto':>7} {'precision':>9} {'recall':>7} {'with review':>11} {'in review':>9}"
    lines = [
        f"{result.rows} rows, {result.known} of them in the chart",
        f"automatic {result.auto} ({_told(result.auto_precision)} of them right), in review {result.review}",
        f"recall {_told(result.recall_auto)}, with review {_told(result.recall_with_review)}",
        "",
        f"{head} | {'alone':>7} {'precision':>9}",
    ]
    for point in curve:
        with_rules, alone = point.result, point.alone
        shares = (with_rules.auto_precision, with_rules.recall_auto, with_rules.recall_with_review, with_rules.review_share)
        precision, recall, with_review, in_review = map(_told, shares)
        lines.append(
            f"{point.bits:>4} {point.threshold:>13.9f} {with_rules.auto:>7} {precision:>9} {recall:>7} {with_review:>11}"
            f" {in_review:>9} | {alone.auto:>7} {_told(alone.auto_precision):>9}"
        )
    return "\n".join(
        [*lines, "", "alone: what the probability would match without the rules that send doubtful pairs to a person"]
    )


def _told(share: float | None) -> str:
    return "–" if share is None else f"{share:.4f}"
