"""A source contract is refused, with file, line and what was expected, before any row goes through it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from ingest.hospital import concept_map
from pydantic import ValidationError

from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.ingest.contracts import contract as module
from fhir_writeback_dagster.ingest.contracts.fields import fields_model
from fhir_writeback_dagster.ingest.contracts.row_rules import NotWritten, RowRule
from fhir_writeback_dagster.ingest.contracts.sources import load_source


def example() -> str:
    """The contract of the module's docstring."""
    return textwrap.dedent((module.__doc__ or "").split("::\n", 1)[1].split("\nA field of")[0])


@pytest.fixture
def mappings(tmp_path: Path) -> Path:
    (tmp_path / "sources" / "mercy_vitals").mkdir(parents=True)
    (tmp_path / "concepts").mkdir()
    (tmp_path / "concepts" / "mercy-vitals.json").write_text(concept_map({"HR": "8867-4"}))
    return tmp_path


def load(mappings: Path, text: str) -> module.Contract:
    (mappings / "sources" / "mercy_vitals" / "1.yaml").write_text(text)
    return load_source(mappings, "mercy_vitals", 1).contract


def complaint(mappings: Path, old: str, new: str) -> str:
    """What loading says when ``old`` is replaced; the place must be a line of the file."""
    assert example().count(old) >= 1
    with pytest.raises(ConfigError) as caught:
        load(mappings, example().replace(old, new, 1))
    assert "mercy_vitals/1.yaml:" in caught.value.where
    return str(caught.value)


def test_the_documented_example_is_a_contract(mappings: Path) -> None:
    loaded = load(mappings, example())
    rules = loaded.tables["vitals"].rows
    assert [type(rule) for rule in rules] == [RowRule, NotWritten, RowRule]
    assert loaded.table_of("vitals_2024.csv") == "vitals"
    assert loaded.table_of("labs.csv") is None


def test_every_shipped_source_loads(shipped: Path) -> None:
    found = sorted((shipped / "sources").glob("*/*.yaml"))
    assert found
    for path in found:
        assert load_source(shipped, path.parent.name, int(path.stem)).contract.tables


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("kind: vital_sign", "kind: vitals", "expected one of vital_sign"),
        ("decimals: 1", "decimal: 1", "decimal: Extra inputs"),
        ("order: dmy", "order: dym", "'dmy', 'mdy' or 'ymd'"),
        ("F: final", "F: fnal", "status cannot be 'fnal'"),
        ("unit_column: UNIT", "unit_column: UNITS", "not in `columns`: UNITS"),
        ("ITEM: chart", "ITEM: operational", "not `chart`: ITEM"),
        ("VALUE: chart", "VALUE: source_only", "source_only columns are read: VALUE"),
        ("WARD_NOTE: source_only", "WARD_NOTE: chart", "nothing reads: WARD_NOTE"),
        ("WARD_NOTE: source_only", "WARD_NOTE: secret", "'chart', 'operational' or 'source_only'"),
        ("identity: [ROW_ID]", "identity: []", "`identity` is missing"),
        ("      status:", "      state:", "no rule's kind has the shared fields state"),
        ("not_written: ", "not_writen: ", "not_writen: Extra inputs"),
        ("- when: {ITEM: [COMMENT]}\n", "- when: {}\n", "can only be the last"),
        ('unit: "mm[Hg]"', "unit: mmHg", "mmHg is no UCUM code"),
        ("decimals: 1}", 'comparators: {"<": lt}}', "'<', '<=', '>=' or '>'"),
        ("decimals: 1}", 'comparators: {"5": "<"}}', "String should match pattern"),
        ("decimals: 1}", "comparator_column: SIGN}", "not in `columns`: SIGN"),
        ("{column: ITEM, concept_map: mercy-vitals}", "{column: ITEM}", "exactly one of system, system_column, concept_map"),
        ("time_zone: Europe/Zurich", "time_zone: Europe/Zuerich", "IANA time zone"),
        ("name: mrn}]", "name: mrn, system: x}]", "exactly one of system, system_column, name"),
        ("version: 1", "version: 2", "differ from the file's place"),
        ("source: mercy_vitals", "source: mercy", "differ from the file's place"),
        ("tables:", "tables: [", "bad_yaml"),
    ],
)
def test_what_is_wrong_is_named(mappings: Path, old: str, new: str, expected: str) -> None:
    assert expected in complaint(mappings, old, new)


def test_a_complaint_has_the_line_of_the_key(mappings: Path) -> None:
    text = example()
    line = text[: text.index("decimals: 1")].count("\n") + 1
    assert f"1.yaml:{line}:" in complaint(mappings, "decimals: 1", "decimals: many")


def test_only_observations_group() -> None:
    fields = {"code": {"column": "c", "system": "x"}, "occurrence": {"column": "d"}}
    group = {"by": ["m"], "code": {"system": "x", "code": "y"}}
    with pytest.raises(ValidationError, match="only vital_sign, lab_result and observation"):
        RowRule.model_validate({"kind": "immunization", "fields": fields, "group": group})


@pytest.mark.parametrize("source", ["nobody", "../sources/mercy_vitals", "/etc", "", "Mercy"])
def test_an_unknown_source_never_becomes_a_path_and_the_known_ones_are_named(mappings: Path, source: str) -> None:
    with pytest.raises(ConfigError, match="unknown_source") as caught:
        load_source(mappings, source, 1)
    assert "known: mercy_vitals" in str(caught.value)


def test_an_unknown_version_names_those_that_are_there(mappings: Path) -> None:
    load(mappings, example())
    with pytest.raises(ConfigError, match="there are: 1"):
        load_source(mappings, "mercy_vitals", 7)


def test_an_unknown_concept_map_names_those_that_are_there(mappings: Path) -> None:
    with pytest.raises(ConfigError, match="known: mercy-vitals"):
        load(mappings, example().replace("concept_map: mercy-vitals", "concept_map: nothing"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('"active"', '"draft"'), "status"),
        (('"equal"', '"same"'), "equivalence"),
        (('"ConceptMap"', '"ValueSet"'), "resourceType"),
        (("{", "{{"), "mercy-vitals.json:1"),
        (
            ('"equivalence": "equal"}]', '"equivalence": "equal"}, {"code": "2", "equivalence": "equivalent"}]'),
            "2 equivalent targets",
        ),
    ],
)
def test_a_bad_concept_map_is_refused(mappings: Path, change: tuple[str, str], expected: str) -> None:
    path = mappings / "concepts" / "mercy-vitals.json"
    path.write_text(path.read_text().replace(*change, 1))
    with pytest.raises(ConfigError, match="mercy-vitals") as caught:
        load(mappings, example())
    assert expected in str(caught.value)


def test_the_hash_of_a_source_covers_its_concept_maps(mappings: Path) -> None:
    load(mappings, example())
    before = load_source(mappings, "mercy_vitals", 1).sha256
    (mappings / "concepts" / "mercy-vitals.json").write_text(concept_map({"HR": "8867-4", "RR": "9279-1"}))
    assert load_source(mappings, "mercy_vitals", 1).sha256 != before


def test_the_words_of_a_contract_are_those_of_the_canonical_kinds() -> None:
    fields = fields_model("medication_request").model_fields
    assert fields["authored"].is_required()
    assert "patient" not in fields
    assert "discriminator" not in fields
