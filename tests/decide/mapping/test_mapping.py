"""The mapping engine: what a version may say, what it makes of empty and odd records, and how it complains."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fhir_writeback_dagster.decide.mapping.versions import Mapping, Refs, load_mapping
from fhir_writeback_dagster.errors import CandidateProblem, ConfigError

REFS = Refs("Patient/1", "Encounter/2", "urn:oid:1.2.3", "key")
HEAD = """\
kind: vital_sign
version: 1
about: a test
resource: Observation
interaction: create
risk: low
identity: {code: "{{ code | code_key }}"}
must_keep: [status]
"""
LOINC = "http://loinc.org"

Load = Callable[..., Mapping]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def write(skeleton: str, head: str = HEAD) -> Mapping:
        folder = tmp_path / "vital_sign"
        folder.mkdir(exist_ok=True)
        text = head + "skeleton:\n" + textwrap.indent(textwrap.dedent(skeleton), "  ")
        (folder / "1.yaml").write_text(text)
        return load_mapping(tmp_path, "vital_sign", 1)

    return write


def record(**more: Any) -> dict[str, Any]:
    code = {"codings": [{"system": LOINC, "code": "8302-2"}]}
    return {"kind": "vital_sign", "code": code, "effective": "2014-08-22T14:34:30-04:00", "status": "final", **more}


def test_an_expression_gives_a_native_value_and_a_constant_stands_as_written(load: Load) -> None:
    mapping = load('status: "{{ status }}"\nvalueQuantity: {value: "{{ quantity.value }}", unit: cm}')
    payload = mapping.render(record(quantity={"value": Decimal("101.80"), "unit": "cm", "code": "cm"}), REFS)
    assert payload == {
        "resourceType": "Observation",
        "status": "final",
        "valueQuantity": {"value": Decimal("101.80"), "unit": "cm"},
    }


@pytest.mark.parametrize("empty", [None, "", [], {}])
def test_what_is_empty_is_left_out(load: Load, empty: object) -> None:
    assert load('status: "{{ status }}"\nvalueString: "{{ text }}"').render(record(text=empty), REFS).keys() == {
        "resourceType",
        "status",
    }


@pytest.mark.parametrize("value", [0, Decimal("0.0"), False])
def test_zero_and_false_are_values(load: Load, value: object) -> None:
    assert load('valueInteger: "{{ text }}"').render(record(text=value), REFS)["valueInteger"] is value


def test_an_object_whose_expressions_all_came_empty_is_gone_with_its_constants(load: Load) -> None:
    mapping = load('dataAbsentReason: {coding: [{system: "urn:x", code: "{{ text }}"}]}\nstatus: final')
    assert mapping.render(record(), REFS) == {"resourceType": "Observation", "status": "final"}
    assert mapping.render(record(text="unknown"), REFS)["dataAbsentReason"]["coding"][0]["code"] == "unknown"


def test_for_repeats_an_item_for_each_part_of_the_record(load: Load) -> None:
    mapping = load(
        'component:\n- $for: part in components\n  code: "{{ part.code | concept }}"\n  valueString: "{{ part.text }}"'
    )
    parts = [{"code": {"text": name}, "text": name} for name in ("a", "b")]
    made = mapping.render(record(components=parts), REFS)["component"]
    assert made == [{"code": {"text": "a"}, "valueString": "a"}, {"code": {"text": "b"}, "valueString": "b"}]
    assert "component" not in mapping.render(record(components=[]), REFS)


def test_a_payload_shares_nothing_with_the_mapping_or_another_payload(load: Load) -> None:
    mapping = load('category: [{coding: [{system: "urn:x", code: fixed}]}]\ncode: "{{ code | concept }}"')
    one = mapping.render(record(), REFS)
    one["category"][0]["coding"][0]["code"] = "spoilt"
    one["code"]["coding"][0]["code"] = "spoilt"
    again = mapping.render(record(), REFS)
    assert again["category"][0]["coding"][0]["code"] == "fixed"
    assert again["code"]["coding"][0]["code"] == "8302-2"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("status ~ '!'", "final!"),
        ("text ~ '!'", None),
        ("'a' if status == 'final' else 'b'", "a"),
        ("'a' if status != 'final'", None),
        ("text or status", "final"),
        ("status in ['final', 'amended']", True),
        ("not text", True),
        ("code.text", None),
        ("quantity.value", None),
    ],
)
def test_the_words_of_jinja_that_a_mapping_may_use(load: Load, expression: str, expected: object) -> None:
    made = load(f'status: final\nvalueString: "{{{{ {expression} }}}}"').render(record(), REFS)
    assert made.get("valueString") == expected


def test_identity_names_a_time_in_utc_at_its_precision(load: Load) -> None:
    head = HEAD.replace(
        'identity: {code: "{{ code | code_key }}"}',
        'identity:\n  code: "{{ code | code_key }}"\n  time: {value: "{{ effective }}", precision: minute}',
    )
    mapping = load("status: final", head)
    assert mapping.identity(record()) == ("http://loinc.org|8302-2", "2014-08-22T18:34Z")
    assert mapping.identity(record(effective="2014-08-22T20:34:59.9+02:00"))[1] == "2014-08-22T18:34Z"
    assert mapping.identity(record(effective="2014-08-22"))[1] == "2014-08-22"


def test_a_record_without_its_identity_is_a_problem_that_names_the_field_and_no_value(load: Load) -> None:
    with pytest.raises(CandidateProblem) as caught:
        load("status: final").identity(record(code={"codings": []}))
    assert (caught.value.code, caught.value.where) == ("no_identity", "code")


def test_a_binding_wants_one_coding_of_its_systems(load: Load) -> None:
    mapping = load('code: "{{ code | concept }}"', HEAD + "bindings: {code: [http://loinc.org]}\n")
    both = {"codings": [{"system": "urn:local", "code": "HT"}, {"system": LOINC, "code": "8302-2"}]}
    assert mapping.render(record(code=both), REFS)["code"]["coding"][1]["code"] == "8302-2"
    with pytest.raises(CandidateProblem) as caught:
        mapping.render(record(code={"codings": [{"system": "urn:local", "code": "SECRET"}]}), REFS)
    assert (caught.value.code, caught.value.where) == ("code_system", "code")
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("skeleton", "line", "expected"),
    [
        ('valueString: "{{ sttus }}"', 10, "unknown field 'sttus'"),
        ('status: final\nvalueString: "{{ code.txt }}"', 11, "unknown field 'txt'; Concept has codings, text"),
        ('valueString: "{{ text.upper }}"', 10, "nothing here has a field 'upper'"),
        ('valueString: "{{ text | shout }}"', 10, "unknown filter 'shout'"),
        ('valueString: "{{ text | concept(1) }}"', 10, "takes no arguments"),
        ('valueString: "{{ text. }}"', 10, "not a Jinja expression"),
        ('valueString: "{{ text }} and {{ status }}"', 10, "one Jinja expression"),
        ('valueString: "Patient/{{ text }}"', 10, "join texts with ~"),
        ('valueString: "{{ range(9) }}"', 10, "call is not for mappings"),
        ("valueString: \"{{ ''.__class__ }}\"", 10, "nothing here has a field '__class__'"),
        ('valueString: "{{ text.__class__.__mro__ }}"', 10, "nothing here has a field"),
        ('valueString: "{{ 9 ** 9 }}"', 10, "pow is not for mappings"),
        ("valueStrin: x", 10, "R4 has no element 'valueStrin' in Observation"),
        ("valueQuantity:\n  unti: cm", 11, "R4 has no element 'unti' in Quantity"),
        ("valueString: {a: b}", 10, "R4 has no element 'a' in string"),
        ("valueString:", 10, "expected a value or an expression"),
        ("component:\n- $for: part of components\n  valueString: x", 11, "expected `$for: item in field`"),
        ("component:\n- $for: part in status\n  valueString: x", 11, "expected a list"),
        ("component:\n- $for: part in parts\n  valueString: x", 11, "unknown field 'parts'"),
    ],
)
def test_a_bad_skeleton_is_refused_at_load_with_its_line(load: Load, skeleton: str, line: int, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(skeleton)
    assert expected in caught.value.message
    assert caught.value.where.endswith(f"1.yaml:{line}")
    assert caught.value.fix


@pytest.mark.parametrize(
    ("old", "new", "line", "expected"),
    [
        ("version: 1", "version: 2", 1, "`kind` and `version` differ from the file's place"),
        ("kind: vital_sign", "kind: vitals", 1, "kind: Input should be"),
        ("resource: Observation", "resource: Encounter", 4, "expected one of AllergyIntolerance"),
        ("must_keep: [status]", "must_keep: [status, valeu]", 8, "R4 has no element 'valeu'"),
        ("risk: low", "risk: none", 6, "risk: Input should be 'low', 'medium' or 'high'"),
        ("risk: low", "risk: low\nowner: me", 7, "owner: unknown key"),
        ("{{ code | code_key }}", "code", 7, "expected an expression in {{ }}"),
        ("{{ code | code_key }}", "{{ refs.business_key }}", 7, "unknown field 'refs'"),
        ("about: a test", "about: [a", 4, "expected"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(load: Load, old: str, new: str, line: int, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("status: final", HEAD.replace(old, new))
    assert expected in caught.value.message
    assert caught.value.where.endswith(f":{line}")


def test_a_version_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, load: Load) -> None:
    load("status: final")
    with pytest.raises(ConfigError) as caught:
        load_mapping(tmp_path, "vital_sign", 7)
    assert caught.value.code == "unknown_mapping"
    assert caught.value.fix == "versions of vital_sign: 1"


def test_a_kind_that_is_none_never_becomes_a_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_mapping(tmp_path / "inner", "../vital_sign", 1)
    assert caught.value.code == "unknown_mapping"


def test_a_version_is_compiled_once_and_anew_when_its_content_differs(tmp_path: Path, load: Load) -> None:
    first = load("status: final")
    assert load_mapping(tmp_path, "vital_sign", 1) is first
    assert load("status: amended").render(record(), REFS)["status"] == "amended"


def test_loading_a_mapping_imports_neither_pandas_nor_fhir_resources() -> None:
    import subprocess

    code = (
        "import sys; from fhir_writeback_dagster.decide import mapping, validation; "
        "print([m for m in ('pandas', 'great_expectations', 'fhir') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
