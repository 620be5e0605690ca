"""Portals' tables as people see them, read as rows; what is cut, ragged or not there is refused with its line."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.contracts.contract import Table
from fhir_writeback_dagster.ingest.readers import read as readers

PORTAL = """<!DOCTYPE html><html><head><title>x</title><style>td {color: red}</style></head><body>
<div class="banner"><span id="mrn"> M-100 </span><b>Test, <!-- not a table: <table> -->Case</b></div>
<table class="layout"><tr><td>
  <table id="nav"><tr><th>Menu</th><th>Go</th></tr><tr><td>Home</td><td>1</td></tr></table>
</td><td>
  <table><caption>Chemistry &amp; more</caption>
    <thead>
      <tr><th rowspan="2">Taken</th><th rowspan=2>Test</th><th colspan="2">Result</th><th rowspan="2"></th></tr>
      <tr><th>Value</th><th>Unit</th></tr>
    </thead>
    <tbody>
      <tr><td colspan="5">Electrolytes</td></tr>
      <tr><td rowspan="2">2025-04-03</td><th scope="row">Sodium</th>
        <td><b>14</b>0<span style="display:none">z</span></td><td>mmol/L</td><td><a>more</a></td></tr>
      <tr><td>Potassium</td><td>4.1</td><td>mmol/L</td><td></td></tr>
      <tr><th rowspan="1">Taken</th><th>Test</th><th>Value</th><th>Unit</th><th></th></tr>
    </tbody>
    <tbody><tr><td colspan="5">Sugar</td></tr>
      <tr><td>2025-04-04</td><td>Glucose<br>fasting</td><td>99</td><td>mg/dL</td><td></td></tr></tbody>
    <tfoot><tr><td colspan="5">3 results</td></tr></tfoot>
  </table>
</td></tr></table>
<table><tr><th>Taken</th><th>Test</th><th>Result / Value</th><th>Result / Unit</th><th>By</th></tr>
<tr><td>2025-04-05</td><td>Iron</td><td>80</td><td>ug/dL</td><td>n&nbsp;n</td></tr></table>
</body></html>"""
COLUMNS = {
    "Taken": "chart",
    "Test": "chart",
    "Result / Value": "chart",
    "Result / Unit": "optional chart",
    "@section": "optional operational",
    "@caption": "optional operational",
    "mrn": "chart",
}


def table(columns: dict[str, str] | None = None, **more: Any) -> Table:
    columns = columns or COLUMNS
    read = [name for name, role in columns.items() if role.endswith("chart")]
    page = {"mrn": "//*[@id='mrn']"} if "mrn" in columns else {}
    return Table.model_validate(
        {
            "files": "*.html",
            "format": "html",
            "columns": columns,
            "page": page,
            "patient": {"identifiers": [{"column": "mrn" if "mrn" in columns else read[0], "system": "urn:mrn"}]},
            "identity": [read[0]],
            "rows": [
                {
                    "kind": "lab_result",
                    "fields": {
                        "effective": {"column": read[0]},
                        "code": {"code": "1", "system": "urn:x"},
                        "text": [{"column": name} for name in read],
                    },
                }
            ],
            **more,
        }
    )


def read(page: str, asked: Table | None = None, *, whole: bool = False) -> list[dict[str, Any]]:
    return readers.read(page.encode(), asked or table(), whole=whole).to_dicts()


def refusal(page: str, asked: Table | None = None) -> tuple[str, int | None]:
    with pytest.raises(ExtractRefused) as refused:
        read(page, asked)
    assert "M-100" not in str(refused.value)
    return refused.value.code, refused.value.line


def test_every_table_with_the_columns_is_read_with_its_merged_cells_and_headings() -> None:
    rows = read(PORTAL)
    assert [[row[name] for name in COLUMNS] for row in rows] == [
        ["2025-04-03", "Sodium", "140", "mmol/L", "Electrolytes", "Chemistry & more", "M-100"],
        ["2025-04-03", "Potassium", "4.1", "mmol/L", "Electrolytes", "Chemistry & more", "M-100"],
        ["2025-04-04", "Glucose fasting", "99", "mg/dL", "Sugar", "Chemistry & more", "M-100"],
        ["2025-04-05", "Iron", "80", "ug/dL", None, None, "M-100"],
    ]
    assert rows[3]["By"] == "n n", "an undeclared column stays with its row"
    assert rows[0].get("@column 5") is None


def test_a_page_that_was_cut_is_refused() -> None:
    assert refusal(PORTAL[: PORTAL.index("Potassium")])[0] == "truncated"
    assert refusal(PORTAL.removesuffix("</html>"))[0] == "truncated"
    assert len(read(PORTAL.removesuffix("</html>"), whole=True)) == 4, "a manifest proves it whole"
    assert refusal(PORTAL[: PORTAL.rindex("</table>")] + "</body></html>")[0] == "truncated"


def test_a_page_without_the_table_names_the_columns_and_nothing_of_the_page() -> None:
    with pytest.raises(ExtractRefused, match="no table of the page has Result / Value") as refused:
        read(PORTAL.replace(">Value<", ">Outcome<").replace("Result / Value", "Outcome"))
    assert "Sodium" not in str(refused.value)
    assert refusal("<html><body><p>Session expired</p></body></html>")[0] == "missing_column"


def test_a_table_without_a_row_is_no_row() -> None:
    page = "<table><tr><th>Taken</th><th>Test</th><th>Result / Value</th></tr></table><i id=mrn>M-100</i>"
    assert read(page) == []


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ("<tr><td>2025-04-05</td><td>Iron</td></tr>", "ragged_row"),
        ("<tr><td>a</td><td>b</td><td>c</td><td>d</td></tr>", "ragged_row"),
        ("<tr><th>When</th><th>What</th><th>How</th></tr>", "ragged_row"),
        ("<tr><td colspan=65534>a</td><td>b</td></tr>", "too_wide"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_with_its_line(row: str, code: str) -> None:
    page = f"<i id=mrn>M-100</i><table>\n<tr><th>Taken<th>Test<th>Result / Value</tr>\n<tr><td>a<td>b<td>c</tr>\n{row}\n</table>"
    assert refusal(page) == (code, 4)


def test_a_merged_cell_below_two_headers_says_its_text_under_both() -> None:
    asked = table({"Taken": "chart", "Systolic": "chart", "Diastolic": "chart"})
    page = "<table><tr><th>Taken<th>Systolic<th>Diastolic</tr><tr><td>a<td colspan=2>refused</tr></table>"
    assert read(page, asked) == [{"Taken": "a", "Systolic": "refused", "Diastolic": "refused"}]


def test_one_header_twice_is_refused_unless_a_header_above_tells_them_apart() -> None:
    asked = table({"Taken": "chart"})
    page = "<table><tr><th>Taken<th>Value<th>Value</tr><tr><td>a<td>b<td>c</tr></table>"
    assert refusal(page, asked) == ("duplicate_header", 1)
    head = "<thead><tr><th rowspan=2>Taken<th>Left<th>Right</tr><tr><th>Value<th>Value</tr></thead>"
    page = f"<table>{head}<tr><td>a<td>b<td>c</tr></table>"
    assert read(page, asked) == [{"Taken": "a", "Left / Value": "b", "Right / Value": "c"}]


def test_a_value_beside_the_table_has_one_place() -> None:
    assert refusal(PORTAL.replace('id="mrn"', 'id="other"'))[0] == "page_value"
    assert refusal(PORTAL.replace("<b>Test", '<i id="mrn">M-200</i><b>Test'))[0] == "page_value"
    assert len(read(PORTAL.replace("<b>Test", '<i id="mrn">M-100</i><b>Test'))) == 4, "said twice alike"


def test_a_bad_xpath_is_told_when_the_contract_is_read() -> None:
    with pytest.raises(ValueError, match="not an XPath"):
        table(page={"mrn": "//*[@id="})
    with pytest.raises(ValueError, match="not in `columns`: ward"):
        table(page={"ward": "//i"})


@given(st.text(alphabet="<>/table hrdcolspn=\"'0123&;\n", max_size=200))
def test_any_page_is_read_or_refused(page: str) -> None:
    with contextlib.suppress(ExtractRefused):
        readers.read(page.encode(), table({"Taken": "chart"}), whole=True)
