"""From an unknown file to a contract, and from a contract to what it makes of a file; without database and tenant."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from fhir_writeback_dagster.cli import main

LAB = """\
Result ID;Patient MRN;Visit No;Collected;LOINC Code;Test Name;Result Value;Units;Flag;Last Updated
1;100;V1;03.01.2024 08:15;2823-3;Potassium;4,1;mmol/L;;2024-01-03 09:00:00
2;100;V1;13.01.2024 08:15;718-7;Hemoglobin;13,5;g/dL;;2024-01-13 09:00:00
3;200;V2;14.01.2024 10:00;6690-2;WBC;<0,5;K/uL;L;2024-01-14 11:00:00
4;200;V2;15.01.2024 10:00;2951-2;Sodium;140;mEq/L;;2024-01-15 11:00:00
"""
PROBLEMS = """\
id,patient_id,icd10,description,onset_date,end_date
1,100,E11.9,Type 2 diabetes,2020-01-02,
2,100,I10,Hypertension,2019-05-06,2021-01-01
3,200,E119,Type 2 diabetes,2020-01-02,
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["source", *map(str, arguments)])


def file(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def sketched(folder: Path, name: str, text: str | bytes) -> tuple[Path, str]:
    result = run("sketch", file(folder, name, text))
    assert result.exit_code == 0, result.output
    return file(folder, "contract.yaml", result.stdout), result.stdout


def checked(sample: Path, contract: Path, *options: str) -> dict[str, Any]:
    result = run("check", sample, "--contract", contract, "--json", *options)
    assert result.exit_code in {0, 1}, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (0 if told["ok"] else 1)
    return told


def test_a_sketch_of_a_laboratory_s_export_reads_it_as_it_stands(tmp_path: Path) -> None:
    contract, _ = sketched(tmp_path, "lab_export_20240301.csv", LAB)
    told = checked(tmp_path / "lab_export_20240301.csv", contract)
    assert told["ok"], told
    assert told["counts"] == {"rows": 4, "records": 4}
    records = [row["record"] for row in told["rows"]]
    assert [record["kind"] for record in records] == ["lab_result"] * 4
    assert [(r["quantity"]["value"], r["quantity"]["code"]) for r in records] == [
        (4.1, "mmol/L"),
        (13.5, "g/dL"),
        (0.5, "10*3/uL"),
        (140, "mmol/L"),
    ]
    assert records[2]["quantity"]["comparator"] == "<"
    assert records[0]["effective"].startswith("2024-01-03T08:15:00")


def test_a_sketch_asks_what_no_file_can_say(tmp_path: Path) -> None:
    _, text = sketched(tmp_path, "lab_export_20240301.csv", LAB)
    questions = [line for line in text.splitlines() if line.lstrip().startswith("# ?")]
    assert any("clock" in question for question in questions)
    assert any("Whose number" in question for question in questions)
    assert any("Flag" in question for question in questions)


def test_dates_that_fit_in_two_orders_are_a_question(tmp_path: Path) -> None:
    rows = "".join(f"{n},100,{n:02d}/02/2024,2823-3,4.{n},mmol/L\n" for n in range(1, 9))
    _, text = sketched(tmp_path, "results.csv", "id,mrn,taken,loinc,value,unit\n" + rows)
    assert "dmy or mdy?" in text


def test_problems_with_a_code_that_a_spreadsheet_spoiled(tmp_path: Path) -> None:
    contract, _ = sketched(tmp_path, "problems.csv", PROBLEMS)
    told = checked(tmp_path / "problems.csv", contract)
    ends = {tuple(row["rows"]): (row["end"], row.get("reason")) for row in told["rows"]}
    assert ends == {(1,): ("record", None), (2,): ("record", None), (3,): ("quarantined", "bad_code")}
    assert told["rows"][1]["record"]["clinical_status"] == "resolved"


@pytest.mark.parametrize(
    ("name", "data", "format_"),
    [
        ("a.jsonl", '{"mrn": "1", "at": "2024-01-02"}\n{"mrn": "2", "at": "2024-01-02"}\n', "jsonl"),
        ("a.ndjson", '{"resourceType": "Observation", "status": "final"}\n', "fhir"),
        ("a.tsv", "mrn\tat\n1\t2024-01-02\n", "csv"),
        ("a.txt", "mrn|at\n1|2024-01-02\n", "csv"),
        ("a.csv", "mrn,at\n1,2024-01-02\n".encode("utf-16"), "csv"),
        ("a.csv", "mrn,name\n1,Müller\n".encode("cp1252"), "csv"),
        ("a.html", "<table><tr><th>mrn</th><th>at</th></tr><tr><td>1</td><td>2024-01-02</td></tr></table>", "html"),
    ],
)
def test_every_format_gives_a_contract_that_reads_the_file(tmp_path: Path, name: str, data: str | bytes, format_: str) -> None:
    contract, text = sketched(tmp_path, name, data)
    (table,) = yaml.safe_load(text)["tables"].values()
    assert table["format"] == format_
    assert checked(tmp_path / name, contract)["refused"] is None


@pytest.mark.parametrize(
    ("name", "text", "option"),
    [
        ("a.csv", 'mrn,note\n1,"says \\"no\\""\n', {"escape": "\\"}),
        ("a.csv", "Report of the laboratory\nmrn,at,note\n1,2024-01-02,x\n", {"title_lines": 1}),
    ],
)
def test_what_a_file_needs_to_be_read_at_all_is_found(tmp_path: Path, name: str, text: str, option: dict[str, Any]) -> None:
    contract, proposed = sketched(tmp_path, name, text)
    (table,) = yaml.safe_load(proposed)["tables"].values()
    assert option.items() <= table.items()
    assert checked(tmp_path / name, contract)["refused"] is None


def test_a_footer_is_a_question(tmp_path: Path) -> None:
    _, proposed = sketched(tmp_path, "a.csv", "mrn,at,note\n1,2024-01-02,x\nTotal: 1\n")
    assert "# ? 1 lines are no rows" in proposed


def test_a_compressed_file_is_named_by_what_is_in_it(tmp_path: Path) -> None:
    contract, proposed = sketched(tmp_path, "labs_1.csv.gz", gzip.compress(LAB.encode()))
    assert next(iter(yaml.safe_load(proposed)["tables"].values()))["files"] == "labs*.csv"
    assert checked(tmp_path / "labs_1.csv.gz", contract)["counts"]["records"] == 4


def test_stays_and_people_are_reference_whatever_codes_they_hold(tmp_path: Path) -> None:
    text = "Id,START,PATIENT,CODE\ne1,2024-01-02,100,185345009\ne2,2024-01-03,100,162673000\n"
    _, proposed = sketched(tmp_path, "encounters.csv", text)
    assert next(iter(yaml.safe_load(proposed)["tables"].values()))["rows"] == [{"not_written": "undecided"}]


def test_files_with_the_same_columns_are_one_table(tmp_path: Path) -> None:
    one, two = (file(tmp_path, f"lab_{n}.csv", LAB) for n in (1, 2))
    assert len(yaml.safe_load(run("sketch", one, two).stdout)["tables"]) == 1


def test_no_value_of_a_patient_stands_in_the_proposal(tmp_path: Path) -> None:
    text = "mrn,name,dob,note\n77001,Whisper-Name,1970-01-02,Whisper-note\n77002,Other-Name,1971-01-02,Whisper-more\n"
    _, proposed = sketched(tmp_path, "people.csv", text)
    assert not any(value in proposed for value in ("77001", "Whisper", "Other-Name", "1970"))


def test_check_tells_people_every_row_and_how_many(tmp_path: Path) -> None:
    contract, _ = sketched(tmp_path, "problems.csv", PROBLEMS)
    result = run("check", tmp_path / "problems.csv", "--contract", contract)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith("row 1: condition {")
    assert lines[2] == "row 3: quarantined bad_code (icd10)"
    assert lines[3].endswith("2 records, 0 rows not written, 1 quarantined")


def test_check_tells_why_a_file_is_refused_and_where(tmp_path: Path) -> None:
    contract, _ = sketched(tmp_path, "problems.csv", PROBLEMS)
    broken = file(tmp_path, "problems.csv", PROBLEMS + "4,100\n")
    told = checked(broken, contract)
    assert (told["refused"]["code"], told["refused"]["line"]) == ("truncated", 5)
    assert checked(file(tmp_path, "other.txt", "x\n"), contract)["refused"]["code"] == "no_table"


def test_a_contract_that_is_wrong_is_one_line_with_its_place(tmp_path: Path) -> None:
    wrong = file(tmp_path, "contract.yaml", "source: a\nversion: 1\ntables: {t: {files: '*'}}\n")
    result = run("check", file(tmp_path, "a.csv", "a\n"), "--contract", wrong)
    assert result.exit_code == 2
    assert "contract.yaml:3" in result.stderr
