"""Weights that a hospital's own rows teach: shares by field and level, the same each time, and none that turns matching round."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from decide.matching.tuning.test_match_evaluate import corrupted, made_up, write

from fhir_writeback_dagster.cli import main
from fhir_writeback_dagster.decide.matching.scoring import WEIGHTS
from fhir_writeback_dagster.decide.matching.tuning.learn import load_weights
from fhir_writeback_dagster.errors import ConfigError


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    random_, folder = random.Random(7), tmp_path_factory.mktemp("learn")
    chart = [made_up(random_, number) for number in range(300)]
    rows = [{"patient_id": person["id"], **corrupted(random_, person)} for person in chart[:200]]
    return write(folder / "chart.csv", chart), write(folder / "rows.csv", rows)


def learn(tables: tuple[Path, Path], out: Path) -> Result:
    patients, truth = map(str, tables)
    return CliRunner().invoke(main, ["match", "learn", "--patients", patients, "--truth", truth, "--out", str(out)])


def test_what_is_learnt_are_shares_and_matches_no_worse(tables: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "weights.json"
    assert learn(tables, out).exit_code == 0
    weights = load_weights(out)
    assert weights.keys() == WEIGHTS.keys()
    assert weights["given"] != WEIGHTS["given"]
    assert weights["state"] == {level: pytest.approx(pair) for level, pair in WEIGHTS["state"].items()}, "of what is not there"
    arguments = ["--patients", str(tables[0]), "--truth", str(tables[1]), "--json"]
    told = json.loads(CliRunner().invoke(main, ["match", "evaluate", *arguments, "--weights", str(out)]).stdout)
    assert told["auto_precision"] == 1.0
    assert told["recall_with_review"] >= 0.95


def test_the_same_rows_teach_the_same_and_nothing_of_a_patient(tables: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    shown = learn(tables, first).stdout
    learn(tables, second)
    assert first.read_bytes() == second.read_bytes()
    names = {
        cell
        for path in tables
        for line in path.read_text().splitlines()[1:]
        for cell in line.split(",")
        if len(cell) > 4 and cell.isalpha()
    }
    assert not [name for name in names if name in shown + first.read_text()]


def broken(weights: dict[str, dict[str, list[float]]], how: str) -> object:
    match how:
        case "a field missing":
            del weights["given"]
        case "a level too many":
            weights["given"]["nearly"] = [0.1, 0.1]
        case "no probability":
            weights["given"]["same"] = [1.5, 0.1]
        case "turned round":
            weights["given"]["same"], weights["given"]["differs"] = weights["given"]["differs"], weights["given"]["same"]
        case "no list":
            return {"weights": 7}
    return {"weights": weights}


@pytest.mark.parametrize("how", ["a field missing", "a level too many", "no probability", "turned round", "no list"])
def test_weights_that_cannot_be_right_are_refused(tmp_path: Path, how: str) -> None:
    path = tmp_path / "weights.json"
    weights = {field: {level: list(pair) for level, pair in levels.items()} for field, levels in WEIGHTS.items()}
    path.write_text(json.dumps(broken(weights, how)))
    with pytest.raises(ConfigError, match="bad_weights"):
        load_weights(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="file_unreadable"):
        load_weights(tmp_path / "none.json")
