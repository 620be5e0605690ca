"""Rows to records: groups, discriminators, alternatives, and the problems that stay a row's own."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingest.hospital import concept_map

from fhir_writeback_dagster.canonical import to_json
from fhir_writeback_dagster.ingest.contracts.concept_maps import load_concept_map
from fhir_writeback_dagster.ingest.contracts.contract import Table
from fhir_writeback_dagster.ingest.contracts.row_rules import ActorFrom
from fhir_writeback_dagster.ingest.normalise.columns import Maker
from fhir_writeback_dagster.ingest.normalise.records import Normalised, NotARecord, normalise

LOINC = "http://loinc.org"
BASE = {"id": "1", "mrn": "M1", "at": "2024-03-01", "item": "8867-4", "value": "72", "unit": "/min"}
FIELDS = {
    "effective": {"column": "at"},
    "code": {"column": "item", "system": LOINC},
    "quantity": {"column": "value", "unit_column": "unit"},
}
PRESSURE = {"by": ["mrn", "at"], "code": {"system": LOINC, "code": "85354-9"}}


SYSTOLIC: dict[str, str | None] = {"item": "8480-6", "unit": "mm[Hg]"}
DIASTOLIC: dict[str, str | None] = {"item": "8462-4", "unit": "mm[Hg]"}


def table(**changes: Any) -> Table:
    fields = FIELDS | changes.pop("fields", {})
    said = {name: spec for name, spec in fields.items() if spec is not None}
    rule = {"kind": "vital_sign", **changes.pop("rule", {}), "fields": said}
    columns = {"id": "operational", "mrn": "chart", "at": "chart", "item": "chart", "value": "chart", "unit": "chart"}
    document = {
        "files": "*",
        "format": "csv",
        "columns": columns | changes.pop("columns", {}),
        "patient": {"identifiers": [{"column": "mrn", "system": "urn:mrn"}]},
        "identity": ["id"],
        "rows": [rule],
        **changes,
    }
    return Table.model_validate(document)


def made(
    rows: Sequence[Mapping[str, Any]], of: Table | None = None, maps: dict[str, Any] | None = None, **actor: Any
) -> Normalised:
    of = of or table()
    full = [{**dict.fromkeys(of.columns), **BASE, **row} for row in rows]
    frame = pl.DataFrame(full, schema=dict.fromkeys([*of.columns, *(n for n in full[0] if n not in of.columns)], pl.String))
    return normalise(frame, "t", of, ActorFrom(**actor), Maker("src", {"mrn": "urn:mrn"}, "UTC", maps or {}))


def reasons(normalised: Normalised) -> dict[int, str]:
    return {row: other.reason for row, other in normalised.others.items()}


def test_a_problem_is_its_rows_own_and_names_the_column() -> None:
    result = made([{}, {"value": "5-10"}, {"mrn": None}])
    assert [record.rows for record in result.records] == [[0]]
    assert result.others == {
        1: NotARecord("quarantined", "bad_decimal", "value"),
        2: NotARecord("quarantined", "no_patient", "mrn"),
    }


def test_a_row_says_who_and_where_its_patient_is() -> None:
    said = {"family": "Zelenka", "given": "Marta", "line": "12 Rosewood Avenue", "city": "Springfield", "postal_code": "62704"}
    said |= {"state": "IL", "phone": "217 555 0142"}
    patient = {"identifiers": [{"column": "mrn", "system": "urn:mrn"}], "birth_date": {"column": "born", "order": "dmy"}}
    patient |= {"sex": {"column": "sex", "values": {"F": "female"}}}
    patient |= {name: {"column": name} for name in said}
    of = table(columns=dict.fromkeys([*said, "born", "sex"], "chart"), patient=patient)
    result = made([{**said, "born": "1.2.1980", "sex": "F"}, {"phone": "217 555 0142"}, {"sex": "?"}], of)
    first, second = (record.record.patient.model_dump(exclude_none=True) for record in result.records)
    number = {"identifiers": ({"system": "urn:mrn", "value": "M1"},)}
    assert first == number | said | {"birth_date": "1980-02-01", "sex": "female"}
    assert second == number | {"phone": "217 555 0142"}
    assert reasons(result) == {2: "unknown_value"}


@pytest.mark.parametrize(
    "text", ["≤5", "~5", "<5 mg/dL", "<", "<<5", "5-10", "1,234.5", "1 000", "five", "5.", "NaN", "inf", "0x10", "١"]
)
def test_what_is_no_decimal_is_not_guessed(text: str) -> None:
    assert reasons(made([{"value": text}])) == {0: "bad_decimal"}


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=6))
def test_decimals_keep_the_digits_of_the_source(value: Decimal) -> None:
    [record] = made([{"value": str(value)}]).records
    quantity = to_json(record.record)["quantity"]
    assert str(quantity["value"]) == str(Decimal(str(value)))


WEIGHT: dict[str, str | None] = {"item": "29463-7"}
UNKNOWN = {"item": "99999-5"}  # a LOINC code by its check digit, of which no unit is expected


def test_a_decimal_comma_is_read_only_where_it_is_declared() -> None:
    kilograms = {"column": "value", "unit": "kg", "decimal_mark": ","}
    of = table(fields={"quantity": kilograms}, columns={"unit": "source_only"})
    assert [str(r.record.quantity.value) for r in made([WEIGHT | {"value": "72,50"}], of).records] == ["72.50"]  # type: ignore[union-attr]
    assert reasons(made([WEIGHT | {"value": "1.234,5"}], of)) == {0: "bad_decimal"}


def test_values_come_out_in_a_unit_that_the_contract_wants_or_not_at_all() -> None:
    of = table(fields={"quantity": {"column": "value", "unit_column": "unit", "units": ["kg"], "decimals": 1}})
    result = made(
        [
            WEIGHT | {"value": "150", "unit": "lbs"},
            WEIGHT | {"value": "70.25", "unit": "kg"},
            UNKNOWN | {"value": "1", "unit": "cm"},
            WEIGHT | {"unit": None},
            WEIGHT | {"value": "1", "unit": "cm"},
        ],
        of,
    )
    assert [(str(r.record.quantity.value), r.record.quantity.code) for r in result.records] == [("68.0", "kg"), ("70.25", "kg")]  # type: ignore[union-attr]
    assert reasons(result) == {2: "unit_not_comparable", 3: "unknown_unit", 4: "unit_unexpected"}


LAB: dict[str, Any] = {"rule": {"kind": "lab_result"}}
LDL = {"item": "13457-7", "unit": "mg/dL"}


def values(normalised: Normalised) -> list[tuple[str | None, str, str]]:
    found = [record.record.quantity for record in normalised.records]  # type: ignore[union-attr]
    return [(q.comparator, str(q.value), q.code) for q in found if q]


@pytest.mark.parametrize(
    ("text", "comparator", "value"),
    [("<5", "<", "5"), ("< 5", "<", "5"), ("<=5.0", "<=", "5.0"), (">=5", ">=", "5"), (">1000", ">", "1000"), ("<-2", "<", "-2")],
)
def test_a_laboratory_may_say_that_a_value_lies_below_or_above_a_bound(text: str, comparator: str, value: str) -> None:
    assert values(made([{**LDL, "value": text}], table(**LAB))) == [(comparator, value, "mg/dL")]


@pytest.mark.parametrize("text", ["≤5", "less than 5", "=<5", "<5 mg/dL", "<", "<<5", "< 1,000", "<5-10", "5<"])
def test_what_is_no_comparator_of_fhir_is_not_guessed(text: str) -> None:
    assert reasons(made([{**LDL, "value": text}], table(**LAB))) == {0: "bad_decimal"}


def test_a_contract_says_what_its_source_writes_for_a_comparator() -> None:
    signs = {"≤": "<=", "less than": "<", "<": "<"}
    of = table(**LAB, fields={"quantity": {"column": "value", "unit_column": "unit", "comparators": signs}})
    result = made([{**LDL, "value": text} for text in ("≤5", "less than 5", "< 5", "5", ">5")], of)
    assert [comparator for comparator, _, _ in values(result)] == ["<=", "<", "<", None]
    assert reasons(result) == {4: "comparator_not_allowed"}


def test_a_vital_sign_takes_a_comparator_only_where_its_contract_wants_one() -> None:
    assert made([{"value": "<30"}]).others == {0: NotARecord("quarantined", "comparator_not_allowed", "value")}
    of = table(fields={"quantity": {"column": "value", "unit_column": "unit", "comparators": {"<": "<"}}})
    assert values(made([{"value": "<30"}], of)) == [("<", "30", "/min")]


def test_a_contract_may_refuse_comparators_of_a_laboratory() -> None:
    of = table(**LAB, fields={"quantity": {"column": "value", "unit_column": "unit", "comparators": {}}})
    assert reasons(made([{**LDL, "value": "<5"}], of)) == {0: "comparator_not_allowed"}


def test_a_bound_of_a_reference_range_takes_no_comparator() -> None:
    of = table(**LAB, fields={"reference_high": {"column": "high", "unit_column": "unit"}}, columns={"high": "chart"})
    result = made([{**LDL, "high": "<5"}], of)
    assert result.others == {0: NotARecord("quarantined", "comparator_not_allowed", "high")}


def test_a_comparator_may_have_a_column_of_its_own() -> None:
    spec = {"column": "value", "unit_column": "unit", "comparator_column": "sign"}
    of = table(**LAB, fields={"quantity": spec}, columns={"sign": "optional chart"})
    rows: list[dict[str, str | None]] = [
        {"sign": "<"},
        {"sign": None},
        {"sign": "ad"},
        {"sign": "<", "value": "<5"},
        {"sign": None, "value": ">5"},
    ]
    result = made([{**LDL, **row} for row in rows], of)
    assert values(result) == [("<", "72", "mg/dL"), (None, "72", "mg/dL"), (">", "5", "mg/dL")]
    assert result.others == {
        2: NotARecord("quarantined", "unknown_comparator", "sign"),
        3: NotARecord("quarantined", "bad_decimal", "value"),
    }


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("<50", ("<", "2.8")), ("<=50", ("<=", "2.8")), (">50", (">", "2.7")), (">=50", (">=", "2.7")), ("50", (None, "2.8"))],
)
def test_a_bound_that_is_converted_keeps_its_side_and_is_rounded_outwards(text: str, wanted: tuple[str | None, str]) -> None:
    spec = {"column": "value", "unit_column": "unit", "units": ["[oz_av]"], "decimals": 1}
    of = table(**LAB, fields={"quantity": spec})
    # 78 g are 2.7513… ounces.
    result = made([{**UNKNOWN, "unit": "g", "value": text.replace("50", "78")}], of)
    assert values(result) == [(*wanted, "[oz_av]")]


def test_a_component_of_a_laboratory_s_panel_may_have_one_too() -> None:
    group = {"by": ["mrn", "at"], "code": {"system": LOINC, "code": "24331-1"}}
    (record,) = made([{**LDL, "value": "<5"}], table(rule={"kind": "lab_result", "group": group})).records
    assert to_json(record.record)["components"][0]["quantity"]["comparator"] == "<"


def test_rows_of_one_group_are_one_observation_with_components_in_a_stable_order() -> None:
    rows = [{"item": "8480-6", "value": "120", "unit": "mmHg"}, {"item": "8462-4", "value": "80", "unit": "mmHg"}]
    there, back = (made(order, table(rule={"group": PRESSURE})).records for order in (rows, rows[::-1]))
    assert [record.rows for record in there] == [[0, 1]]
    assert there[0].record == back[0].record
    assert [c.code.codings[0].code for c in there[0].record.components] == ["8462-4", "8480-6"]  # type: ignore[union-attr]
    assert there[0].record.code.codings[0].code == "85354-9"  # type: ignore[union-attr]
    assert there[0].identity == back[0].identity


def test_a_bad_row_takes_its_group_along() -> None:
    rows = [
        SYSTOLIC | {"value": "high"},
        DIASTOLIC | {"value": "80"},
        DIASTOLIC | {"value": "81", "mrn": "M2"},
    ]
    result = made(rows, table(rule={"group": PRESSURE}))
    assert reasons(result) == {0: "bad_decimal", 1: "group_incomplete"}
    assert [record.rows for record in result.records] == [[2]]


def test_copies_within_a_group_go_to_one_record_and_other_values_to_a_person() -> None:
    of = table(rule={"group": PRESSURE})
    copy = [SYSTOLIC | {"value": "120"}, SYSTOLIC | {"value": "120"}, DIASTOLIC | {"value": "80"}]
    assert [record.rows for record in made(copy, of).records] == [[0, 1, 2]]
    twice = [SYSTOLIC | {"value": "120"}, SYSTOLIC | {"value": "121"}, DIASTOLIC | {"value": "80"}]
    assert reasons(made(twice, of)) == dict.fromkeys(range(3), "ambiguous_group")


def test_a_group_whose_rows_say_different_things_is_not_written() -> None:
    of = table(rule={"group": PRESSURE}, fields={"status": {"column": "state"}}, columns={"state": "chart"})
    rows = [SYSTOLIC | {"state": "final"}, DIASTOLIC | {"state": "preliminary"}]
    assert reasons(made(rows, of)) == {0: "group_disagrees", 1: "group_disagrees"}


def order_table(**changes: Any) -> Table:
    fields = {
        "code": {"column": "item", "system": "urn:rx"},
        "authored": {"column": "at"},
        "ended": {"column": "stop"},
        "status": [{"constant": "stopped", "when": {"stop": "present"}}, {"constant": "active"}],
        "dispenses": {"column": "value"},
    }
    columns = {"id": "operational", "mrn": "chart", "at": "chart", "item": "chart", "value": "chart", "stop": "chart"}
    return Table.model_validate(
        {
            "files": "*",
            "format": "csv",
            "columns": columns,
            "patient": {"identifiers": [{"column": "mrn", "system": "urn:mrn"}]},
            "identity": ["mrn", "item", "at"],
            "discriminator": ["stop", "value"],
            "rows": [{"kind": "medication_request", "fields": fields}],
            **changes,
        }
    )


def marks(rows: list[dict[str, str | None]]) -> list[str | None]:
    return [record.record.discriminator for record in made(rows, order_table()).records]


def test_rows_that_agree_in_identity_and_differ_beside_it_are_different_facts() -> None:
    assert marks([{"stop": "2024-04-01"}, {"stop": "2024-05-01"}, {"stop": "2024-05-01", "item": "other"}]) == [None, "2", None]
    assert marks([{"stop": "2024-05-01"}, {"stop": "2024-04-01"}]) == ["2", None]  # the order of delivery is of no matter
    identities = {r.identity for r in made([{"stop": "2024-04-01"}, {"stop": "2024-05-01"}], order_table()).records}
    assert len(identities) == 2


def test_a_lone_row_whose_stop_comes_later_stays_the_same_fact() -> None:
    before, after = (made([{"stop": stop}], order_table()).records[0] for stop in (None, "2024-05-01"))
    assert (before.identity, before.record.discriminator) == (after.identity, after.record.discriminator)


def test_the_open_one_of_two_stays_itself_when_it_ends() -> None:
    assert marks([{"stop": "2024-04-01"}, {"stop": None}]) == [None, "2"]
    assert marks([{"stop": "2024-04-01"}, {"stop": "2024-06-01"}]) == [None, "2"]


def test_exact_copies_are_records_of_their_own_and_the_same_fact() -> None:
    assert marks([{"stop": "2024-04-01"}, {"stop": "2024-04-01"}]) == [None, None]


def test_alternatives_and_words() -> None:
    [one, two] = made([{"stop": None, "value": "3"}, {"stop": "2024-05-01", "value": None}], order_table()).records
    assert (one.record.status, one.record.dispenses) == ("active", 3)  # type: ignore[union-attr]
    assert (two.record.status, two.record.ended, two.record.dispenses) == ("stopped", "2024-05-01", None)  # type: ignore[union-attr]
    assert reasons(made([{"value": "three"}], order_table())) == {0: "unknown_value"}


def test_a_word_without_a_translation_is_a_problem_of_its_row() -> None:
    of = table(fields={"status": {"column": "state", "values": {"F": "final"}}}, columns={"state": "chart"})
    result = made([{"state": "F"}, {"state": "X"}, {"state": None}], of)
    assert reasons(result) == {1: "unknown_value"}
    assert [r.record.status for r in result.records] == ["final", "final"]  # type: ignore[union-attr]


ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"


def test_a_source_labels_its_records() -> None:
    own = [{"code": "42CFRPart2"}, {"column": "sens", "values": {"H": "HIV", "-": None}}]
    result = made(
        [{"sens": "H"}, {"sens": "-"}, {"sens": None}, {"sens": "?"}], table(fields={"labels": own}, columns={"sens": "chart"})
    )
    assert reasons(result) == {3: "unknown_value"}
    found = [[(label.system, label.code) for label in r.record.labels or ()] for r in result.records]
    assert found == [[(ACT_CODE, "42CFRPart2"), (ACT_CODE, "HIV")], [(ACT_CODE, "42CFRPart2")], [(ACT_CODE, "42CFRPart2")]]
    assert "labels" not in to_json(made([{}]).records[0].record), "a record without labels is told as ever"


def test_a_group_is_as_sensitive_as_the_most_sensitive_of_its_rows() -> None:
    of = table(rule={"group": PRESSURE}, fields={"labels": {"column": "sens"}}, columns={"sens": "chart"})
    [record] = made([SYSTOLIC | {"sens": "HIV"}, DIASTOLIC | {"sens": None}], of).records
    assert [label.code for label in record.record.labels or ()] == ["HIV"]


def test_the_source_declares_the_order_of_its_versions() -> None:
    of = table(as_of={"column": "changed"}, columns={"changed": "operational"})
    result = made([{"changed": "2024-03-01T10:00:00+02:00"}, {"changed": None}, {"changed": "soon"}], of)
    assert [record.as_of and record.as_of.isoformat() for record in result.records] == ["2024-03-01T08:00:00+00:00", None]
    assert reasons(result) == {2: "bad_date"}


def test_an_agent_says_its_model_its_confidence_and_what_it_saw() -> None:
    of = table(
        columns={"model": "operational", "sure": "chart", "basis": "chart"},
        fields={"confidence": {"column": "sure"}, "basis": {"column": "basis"}},
    )
    rows = [{"model": "m-1", "sure": "0.91", "basis": "inferred"}, {"sure": "1.5"}, {"basis": "guessed"}]
    result = made(rows, of, type="agent", id="reader", model_column="model")
    [record] = result.records
    assert record.record.actor.model_dump() == {"type": "agent", "id": "reader", "model": "m-1"}
    assert (str(record.record.confidence), record.record.basis) == ("0.91", "inferred")
    assert reasons(result) == {1: "bad_value", 2: "unknown_value"}


def test_local_codes_go_by_concept_map_with_the_sources_own_beside_them(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(concept_map({"HR": "8867-4"}))
    maps = {"m": load_concept_map(tmp_path, "m")}
    of = table(fields={"code": {"column": "item", "concept_map": "m"}})
    result = made([{"item": "HR"}, {"item": "hr"}], of, maps)
    codings = result.records[0].record.code.codings  # type: ignore[union-attr]
    assert [(c.system, c.code) for c in codings] == [(LOINC, "8867-4"), ("urn:vitals", "HR")]
    assert reasons(result) == {1: "unmapped_code"}


@pytest.mark.parametrize("equivalence", ["wider", "narrower", "inexact", "relatedto", "unmatched"])
def test_only_equal_and_equivalent_targets_count(tmp_path: Path, equivalence: str) -> None:
    text = concept_map({"HR": "8867-4"}).replace('"equal"', json.dumps(equivalence))
    (tmp_path / "m.json").write_text(text)
    of = table(fields={"code": {"column": "item", "concept_map": "m"}})
    assert reasons(made([{"item": "HR"}], of, {"m": load_concept_map(tmp_path, "m")})) == {0: "unmapped_code"}


def test_a_code_of_an_unknown_system_is_not_guessed() -> None:
    of = table(
        columns={"system": "chart"},
        fields={"code": {"column": "item", "system_column": "system", "systems": {"LN": LOINC}}},
    )
    assert reasons(made([{"system": "LN"}, {"system": "SCT"}], of)) == {1: "unknown_code_system"}


def test_a_document_brings_its_bytes_and_their_hash() -> None:
    fields = {"type": {"code": "11506-3", "system": LOINC}, "date": {"column": "at"}, "data": {"column": "value"}}
    of = table(rows=[{"kind": "document", "fields": fields}], columns={"item": "source_only", "unit": "source_only"})
    [record] = made([{"value": "Zürich"}], of).records
    assert record.record.data == "WsO8cmljaA=="  # type: ignore[union-attr]
    assert record.record.sha256 == hashlib.sha256("Zürich".encode()).hexdigest()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("raw", "said", "end"),
    [
        (b"%PDF-1.7\n...\n%%EOF\n", "application/pdf", "application/pdf"),
        (b"%PDF-1.7\n...\n%%EOF\n", None, "application/pdf"),
        (b"%PDF-1.7\n...", None, "bad_document"),
        (b"%PDF-1.7\n...\n%%EOF\n", "text/plain", "content_type_differs"),
        (b"a note", "application/pdf", "content_type_differs"),
        (b"a note\r\n\twith lines", None, "text/plain"),
        (b" \n ", None, "bad_document"),
        (b"a\x00b", None, "bad_document"),
        (b"\xff\xfea\x00", None, "bad_document"),
        (b"x" * 5_000_000, None, "text/plain"),
        (b"x" * 5_000_001, None, "document_too_large"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value),
)
def test_a_document_is_text_or_a_whole_pdf_of_a_size_that_servers_take(raw: bytes, said: str | None, end: str) -> None:
    fields = {
        "type": {"code": "11506-3", "system": LOINC},
        "date": {"column": "at"},
        "data": {"column": "value", "encoded": "base64"},
        "content_type": {"column": "item"},
    }
    of = table(rows=[{"kind": "document", "fields": fields}], columns={"item": "optional chart", "unit": "source_only"})
    done = made([{"value": base64.b64encode(raw).decode(), "item": said}], of)
    found = [record.record.content_type for record in done.records] or [done.others[0].reason]  # type: ignore[union-attr]
    assert found == [end]


def test_one_row_with_two_measurements_is_one_observation() -> None:
    def part(code: str, column: str) -> dict[str, Any]:
        return {"code": {"code": code, "system": LOINC}, "quantity": {"column": column, "unit": "mm[Hg]"}}

    of = table(
        columns={"dia": "chart", "unit": "source_only", "item": "source_only"},
        fields={
            "code": {"code": "85354-9", "system": LOINC},
            "quantity": None,
            "components": [part("8480-6", "value"), part("8462-4", "dia")],
        },
    )
    result = made([{"value": "120", "dia": "80"}, {"value": "120", "dia": None}, {"value": None}], of)
    assert [len(r.record.components) for r in result.records] == [2, 1]  # type: ignore[union-attr]
    assert reasons(result) == {2: "missing_value"}


@given(
    st.lists(st.sampled_from(["8480-6", "8462-4", "x", "", "8867-4"]), max_size=12),
    st.lists(st.sampled_from(["120", "80", "?"]), min_size=12, max_size=12),
)
def test_every_row_is_at_exactly_one_end(items: list[str], values: list[str]) -> None:
    of = table(
        rows=[
            {"when": {"item": ["x"]}, "not_written": "source_truth_only"},
            {"when": {"item": ["8480-6", "8462-4"]}, "kind": "vital_sign", "group": PRESSURE, "fields": FIELDS},
            {"when": {"item": ["8867-4"]}, "kind": "vital_sign", "fields": FIELDS},
        ]
    )
    rows: list[dict[str, str | None]] = [{"item": item, "value": value} for item, value in zip(items, values, strict=False)]
    if rows:
        result = made(rows, of)
        found = [row for record in result.records for row in record.rows]
        assert sorted([*found, *result.others]) == list(range(len(rows)))
