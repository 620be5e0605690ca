"""``fhir-writeback validate``: which resources a file holds, and what is said of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fhir_writeback_dagster.cli import main
from fhir_writeback_dagster.decide.commands.validate_files import validate_files

GOOD = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}
BAD = {**GOOD, "status": "Mallory"}
BAD_RESULT = {
    "valid": False,
    "issues": [{"layer": "syntactic", "code": "binding", "path": "Observation.status", "severity": "error"}],
}
GOOD_RESULT: dict[str, Any] = {"valid": True, "issues": []}


def results(tmp_path: Path, content: str | bytes) -> list[dict[str, Any]]:
    path = tmp_path / "input"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(validate_files([str(path)]))


def not_json(line: int) -> dict[str, Any]:
    return {"valid": False, "issues": [{"layer": "syntactic", "code": "not_json", "path": f"line {line}", "severity": "error"}]}


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(GOOD) + "\n" + json.dumps(BAD) + "\n",
        json.dumps(GOOD) + "\r\n\r\n" + json.dumps(BAD),
        json.dumps([GOOD, BAD], indent=2),
        json.dumps({"resourceType": "Bundle", "entry": [{"resource": GOOD}, {"fullUrl": "urn:x"}, {"resource": BAD}]}),
        "\ufeff" + json.dumps([GOOD, BAD]),
    ],
    ids=["NDJSON", "blank lines", "array", "Bundle", "byte order mark"],
)
def test_every_resource_has_its_line_in_the_order_of_the_input(tmp_path: Path, content: str) -> None:
    assert results(tmp_path, content) == [GOOD_RESULT, BAD_RESULT]


def test_a_resource_written_over_many_lines_is_one(tmp_path: Path) -> None:
    assert results(tmp_path, json.dumps(BAD, indent=2)) == [BAD_RESULT]


def test_a_line_that_is_no_json_does_not_hide_the_others(tmp_path: Path) -> None:
    lines = [json.dumps(GOOD), '{"resourceType": "Obs', json.dumps(BAD), "7"]
    assert results(tmp_path, "\n".join(lines)) == [GOOD_RESULT, not_json(2), BAD_RESULT, not_json(4)]


def test_a_broken_first_line_does_not_hide_the_others_either(tmp_path: Path) -> None:
    lines = ['{"resourceType": "Obs', json.dumps(GOOD), json.dumps(BAD)]
    assert results(tmp_path, "\n".join(lines)) == [not_json(1), GOOD_RESULT, BAD_RESULT]


@pytest.mark.parametrize("content", [b"", b"\n\n", b'{\n "a":', b"\xff\xfe\x00", b"null", b"[" * 100_000])
def test_what_holds_no_json_is_one_invalid_result(tmp_path: Path, content: bytes) -> None:
    found = results(tmp_path, content)
    assert [r["issues"][0]["code"] for r in found] == ["not_json"]


def test_an_entry_that_is_no_object_and_a_type_that_is_not_written_are_invalid(tmp_path: Path) -> None:
    found = results(tmp_path, json.dumps([1, {"resourceType": "Encounter"}]))
    assert [(r["valid"], r["issues"][0]["code"]) for r in found] == [(False, "type"), (False, "unsupported_type")]


@pytest.mark.parametrize("entry", ["null", "7", '"x"', "{}", "true"])
def test_entries_of_a_bundle_that_are_no_list_are_an_issue(tmp_path: Path, entry: str) -> None:
    found = results(tmp_path, '{"resourceType": "Bundle", "entry": ' + entry + "}\n" + json.dumps(GOOD))
    issue = {"layer": "syntactic", "code": "type", "path": "Bundle.entry", "severity": "error"}
    assert found == [{"valid": False, "issues": [issue]}, GOOD_RESULT]


def test_an_entry_that_is_no_object_is_an_issue_beside_the_others(tmp_path: Path) -> None:
    found = results(tmp_path, json.dumps({"resourceType": "Bundle", "entry": [None, {"resource": GOOD}, 3]}))
    assert [[i["path"] for i in r["issues"]] for r in found] == [["Bundle.entry[0]", "Bundle.entry[2]"], []]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"resourceType": "Observation", "status": "final", "status": "Mallory", "code": {"text": "x"}}', 1),
        ('{"resourceType": "Observation", "status": "final",\n "code": {"text": "x",\n "text": "Mallory"}}', 1),
        (json.dumps(GOOD) + '\n{"resourceType": "Observation", "code": {"text": "a", "te\\u0078t": "Mallory"}}', 2),
        ('[{"resourceType": "Observation", "resourceType": "Patient"}]', 1),
    ],
    ids=["a line", "many lines", "a later line, escaped", "an array"],
)
def test_a_name_that_stands_twice_is_an_issue(tmp_path: Path, content: str, line: int) -> None:
    found = results(tmp_path, content)
    assert found[-1]["issues"] == [{"layer": "syntactic", "code": "duplicate_key", "path": f"line {line}", "severity": "error"}]
    assert found[:-1] == [GOOD_RESULT] * (line - 1)


def test_digits_of_decimals_and_great_numbers_survive_reading(tmp_path: Path) -> None:
    text = json.dumps(GOOD)[:-1] + ', "valueQuantity": {"value": 1e400}}'
    assert results(tmp_path, text) == [GOOD_RESULT]


def test_a_warning_is_told_and_leaves_the_resource_valid(tmp_path: Path) -> None:
    dose = {"value": 1, "system": "http://unitsofmeasure.org", "code": "ea"}
    request = {
        "resourceType": "MedicationRequest",
        "status": "active",
        "intent": "order",
        "subject": {"reference": "Patient/1"},
        "medicationCodeableConcept": {"text": "x"},
        "dosageInstruction": [{"doseAndRate": [{"doseQuantity": dose}]}],
    }
    (found,) = results(tmp_path, json.dumps(request))
    assert found["valid"]
    assert [(i["code"], i["severity"]) for i in found["issues"]] == [("ucum", "warning")]


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, ["validate", *arguments], input=stdin)


def test_the_command_prints_one_json_object_a_resource_and_exits_1_if_any_is_invalid() -> None:
    done = run("-", "--json", stdin=json.dumps(GOOD) + "\n" + json.dumps(BAD))
    assert [json.loads(line) for line in done.stdout.splitlines()] == [GOOD_RESULT, BAD_RESULT]
    assert done.exit_code == 1
    assert run("-", "--json", stdin=json.dumps(GOOD)).exit_code == 0


def test_the_command_speaks_to_people_too_and_never_of_values() -> None:
    done = run("-", stdin=json.dumps(GOOD) + "\n" + json.dumps(BAD))
    assert done.stdout.splitlines() == ["1 valid", "2 invalid: syntactic error binding Observation.status"]
    assert "Mallory" not in done.output


def test_a_file_that_cannot_be_read_is_named_with_the_mend(tmp_path: Path) -> None:
    done = run(str(tmp_path / "nowhere.json"))
    assert done.exit_code == 2
    assert "nowhere.json: No such file or directory" in done.stderr
    assert "name a file that can be read" in done.stderr
