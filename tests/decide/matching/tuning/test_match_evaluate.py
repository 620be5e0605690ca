"""`match evaluate` as a hospital uses it: two files in, shares and a curve out, nothing of a patient."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result

from fhir_writeback_dagster.cli import main

COLUMNS = ["id", "given", "family", "birth_date", "sex", "line", "city", "postal_code", "phone"]
Columns = dict[str, str]


def made_up(random_: random.Random, number: int) -> Columns:
    def word(syllables: int) -> str:
        return "".join(random_.choice("bdfgklmnprstv") + random_.choice("aeiou") for _ in range(syllables)).title()

    return {
        "id": f"p{number}",
        "given": word(random_.choice((2, 3))),
        "family": word(random_.choice((2, 3, 4))),
        "birth_date": f"{random_.randint(1930, 2020)}-{random_.randint(1, 12):02d}-{random_.randint(1, 28):02d}",
        "sex": random_.choice("MF"),
        "line": f"{random_.randint(1, 300)} {word(3)} Street",
        "city": word(3),
        "postal_code": f"{random_.randint(10000, 99999)}",
        "phone": f"{random_.randint(2000000000, 9999999999)}",
    }


def corrupted(random_: random.Random, columns: Columns) -> Columns:
    """As FEBRL's generator does it: slips, missing values, exchanged names, exchanged digits, moves."""
    row = {name: value for name, value in columns.items() if name != "id"}
    for _ in range(random_.randint(0, 2)):
        name = random_.choice(list(row))
        value = row[name]
        match random_.choice(["slip", "missing", "exchange", "swap", "move"]):
            case "slip" if len(value) > 3:
                at = random_.randrange(1, len(value) - 1)
                row[name] = value[:at] + random_.choice("aeiou1") + value[at + 1 :]
            case "missing":
                row[name] = ""
            case "exchange" if len(value) > 3:
                at = random_.randrange(len(value) - 1)
                row[name] = value[:at] + value[at + 1] + value[at] + value[at + 2 :]
            case "swap":
                row["given"], row["family"] = row["family"], row["given"]
            case _:
                row |= {"line": "1 New Road", "city": "Elsewhere", "postal_code": "00001", "phone": "5550000000"}
    return row


def write(path: Path, rows: list[Columns]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["match", "evaluate", *map(str, arguments)])


def test_no_wrong_automatic_match_and_hardly_anybody_missed(tmp_path: Path) -> None:
    """Half of the rows are of nobody in the chart, and every tenth of those is a twin of somebody who is."""
    random_ = random.Random(20261122)
    people = [made_up(random_, number) for number in range(800)]
    chart, strangers = people[:400], people[400:]
    for number in range(0, len(strangers), 10):
        twin = chart[number] | {"id": strangers[number]["id"], "given": made_up(random_, 0)["given"], "sex": chart[number]["sex"]}
        strangers[number] = twin
    rows = [{"patient_id": p["id"] if p in chart else "", **corrupted(random_, p)} for p in people]
    result = run("--patients", write(tmp_path / "chart.csv", chart), "--truth", write(tmp_path / "rows.csv", rows), "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert report["rows"] == 800
    assert report["auto_precision"] == 1.0
    assert report["recall_with_review"] >= 0.95
    assert report["recall_auto"] >= 0.5
    assert report["review_share"] <= 0.35


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    ann = {"given": "Marta", "family": "Zelenka", "birth_date": "1980-02-01", "city": "Springfield"}
    bob = {"given": "Robert", "family": "Ulrichsen", "birth_date": "1955-07-19", "city": "Shelbyville"}
    chart = [{"id": "p1", **ann}, {"id": "p2", **bob}, {"id": "p3", **ann, "given": "Hildegard", "birth_date": "1931-12-24"}]
    rows = [
        {"patient_id": "p1", **ann},
        {"patient_id": "p2", **bob, "given": "Bob"},
        {"patient_id": "p1", **ann, "given": "Maria"},
        {"patient_id": "", "given": "Olaf", "family": "Nobody", "birth_date": "2001-01-01", "city": "Oslo"},
    ]
    return write(tmp_path / "chart.csv", chart), write(tmp_path / "rows.csv", rows)


def test_the_report_counts_what_it_says(files: tuple[Path, Path]) -> None:
    report = json.loads(run("--patients", files[0], "--truth", files[1], "--json").stdout)
    assert {k: v for k, v in report.items() if k != "curve"} == {
        "rows": 4,
        "auto": 1,
        "auto_precision": 1.0,
        "recall_auto": pytest.approx(1 / 3, abs=1e-6),
        "recall_with_review": 1.0,
        "review_share": 0.5,
    }
    curve = report["curve"]
    assert [p["threshold"] for p in curve] == sorted(p["threshold"] for p in curve)
    assert [p["auto"] for p in curve] == sorted((p["auto"] for p in curve), reverse=True)
    assert curve[-1]["auto_precision"] is None  # nobody is that sure, so there is no precision to tell


def test_thresholds_are_the_caller_s(files: tuple[Path, Path]) -> None:
    shy = json.loads(run("--patients", files[0], "--truth", files[1], "--auto", "0.9999999999", "--json").stdout)
    assert (shy["auto"], shy["review_share"]) == (0, 0.75)  # Bob, Maria, and now Marta too
    assert run("--patients", files[0], "--truth", files[1], "--auto", "0.5", "--review", "0.6").exit_code == 2


def test_people_read_a_table_and_a_picture(files: tuple[Path, Path], tmp_path: Path) -> None:
    picture = tmp_path / "curve.svg"
    result = run("--patients", files[0], "--truth", files[1], "--picture", picture)
    assert "4 rows, 3 of them in the chart" in result.stdout
    assert "automatic 1 (1.0000 of them right), in review 2" in result.stdout
    lines = ET.parse(picture).getroot().findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 4


def test_nothing_of_a_patient_is_printed(files: tuple[Path, Path]) -> None:
    for arguments in ([], ["--json"]):
        output = run("--patients", files[0], "--truth", files[1], *arguments).output
        assert not any(value in output for value in ("Marta", "Zelenka", "1980", "p1", "Springfield"))


def test_columns_that_are_not_there_or_not_ours_do_not_matter(tmp_path: Path) -> None:
    chart = write(
        tmp_path / "chart.csv", [{"id": "1", "ssn": "123-45-6789", "family": "Zelenka", "given": "Marta", "shoe": "42"}]
    )
    truth = write(tmp_path / "rows.csv", [{"ssn": "123456789", "family": "ZELENKA", "given": "Marta", "patient_id": "1"}])
    assert json.loads(run("--patients", chart, "--truth", truth, "--json").stdout)["auto"] == 1


@pytest.mark.parametrize(
    ("which", "content", "told"),
    [
        ("chart", b"", "chart.csv:1: expected the columns id and some of given"),
        ("chart", b"given,family\nA,B\n", "chart.csv:1: expected the columns id"),
        ("chart", b"id,shoe\n1,42\n", "chart.csv:1: expected the columns id"),
        ("chart", b"id,given\n1,A\n1,B\n", "chart.csv:3: the id stands twice"),
        ("chart", b"id,given\n,A\n", "chart.csv:2: the id is empty"),
        ("chart", b"id,given,given\n1,A,B\n", "chart.csv:1: a column stands twice"),
        ("chart", b"id,given\n1\n", "chart.csv:2: expected 2 fields"),
        ("chart", b"id,given\n1,A,B\n", "chart.csv:2: expected 2 fields"),
        ("chart", b'id,given\n1,"A\n', "not CSV"),
        ("chart", b"id,given\n1,\xff\n", "chart.csv: UnicodeDecodeError"),
        ("rows", b"patient_id,given\nnobody,A\n", "rows.csv:2: `patient_id` names nobody of the chart"),
        ("rows", None, "rows.csv: there is no such file"),
    ],
)
def test_bad_files(files: tuple[Path, Path], which: str, content: bytes | None, told: str) -> None:
    path = files[0 if which == "chart" else 1]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    result = run("--patients", files[0], "--truth", files[1], "--json")
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stdout == ""


def test_a_picture_that_cannot_be_written(files: tuple[Path, Path], tmp_path: Path) -> None:
    result = run("--patients", files[0], "--truth", files[1], "--picture", tmp_path / "nowhere" / "curve.svg")
    assert (result.exit_code, "not_writable" in result.stderr) == (2, True)
