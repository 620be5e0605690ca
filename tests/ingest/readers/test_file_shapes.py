"""CSV, gzip and zip as people have them: what everybody expects to be read is read, and nothing is read into another column."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Mapping
from typing import Any

import pytest

from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.contracts.contract import Contract, Table
from fhir_writeback_dagster.ingest.contracts.reserved_columns import BROKEN
from fhir_writeback_dagster.ingest.readers.read import read

ROW = {"id": "1", "mrn": "100", "at": "2024-10-01", "value": "70"}
HEADER, LINE = "id,mrn,at,value\n", "1,100,2024-10-01,70\n"


def table(**changes: Any) -> Table:
    document = {
        "files": "*.csv",
        "format": "csv",
        "columns": dict.fromkeys(ROW, "operational"),
        "rows": [{"not_written": "reference_only"}],
        **changes,
    }
    return Table.model_validate(document)


def rows(data: str | bytes, **changes: Any) -> list[dict[str, Any]]:
    return read(data.encode() if isinstance(data, str) else data, table(**changes), whole=False).rows(named=True)


def refusal(data: str | bytes, **changes: Any) -> str:
    with pytest.raises(ExtractRefused) as caught:
        rows(data, **changes)
    assert caught.value.fix
    return caught.value.code


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("id, mrn ,\u00a0at,value\t\n" + LINE, {}),
        ("id,mrn,at,value,\n1,100,2024-10-01,70,\n", {}),
        ("id,mrn,at,value,,\n1,100,2024-10-01,70,,\n", {}),
        ("id,mrn,at,value,\n" + LINE, {}),
        (HEADER + "1,100,2024-10-01,70,\n", {}),
        ("\n" + HEADER + LINE, {}),
        ("sep=;\r\nid;mrn;at;value\r\n1;100;2024-10-01;70\r\n", {}),
        ("\ufeffsep=,\n" + HEADER + LINE, {}),
        ("id\tmrn\tat\tvalue\n1\t100\t2024-10-01\t70\n", {"delimiter": "\t"}),
        ("id,mrn,at,value\r1,100,2024-10-01,70\r", {}),
        ("Vitals export 2024\n\n" + HEADER + LINE, {"title_lines": 1}),
        ('"Vitals, 2024"\nWard 3, "all\n' + HEADER + LINE, {"title_lines": 2}),
        (HEADER + LINE + "Total rows: 1", {"footer": ["Total rows: *"]}),
        (HEADER + LINE + "\nTotal rows: 1\n-- end, of report --\n\n", {"footer": ["Total rows: *", "-- end*"]}),
        (HEADER + LINE, {"footer": ["Total rows: *"]}),
        (HEADER + LINE + HEADER, {}),
    ],
)
def test_the_one_row_is_read(text: str, changes: Mapping[str, Any]) -> None:
    assert rows(text, **changes) == [ROW]


def test_an_undeclared_footer_is_a_cut_row() -> None:
    assert refusal(HEADER + LINE + "Total rows: 1\n") == "truncated"


def test_a_shifted_row_is_never_taken_for_one_with_an_empty_last_column() -> None:
    shifted = "2,Smith, John,2024-10-02,\n"
    found = rows(HEADER + LINE + shifted)
    assert [row[BROKEN] for row in found] == [None, "ragged_row"]
    assert refusal(HEADER + shifted + LINE) == "ragged_row", "which of the two is right nobody can say"
    assert [row[BROKEN] for row in rows("id,mrn,at,value,\n1,100,2024-10-01,70,\n" + "2,Smith, John,2024-10-02,9,\n")] == [
        None,
        "ragged_row",
    ]


def test_a_value_without_a_name_is_refused() -> None:
    assert refusal("id,mrn,at,value,\n1,100,2024-10-01,70,71\n") == "bad_header"


def test_names_that_differ_by_blanks_alone_are_the_same_name() -> None:
    assert refusal("id,mrn,at,value, value\n1,100,2024-10-01,70,71\n") == "duplicate_header"


NOTE = {"columns": {"id": "operational", "note": "operational"}}


def test_backslash_quotes_are_read_where_the_contract_declares_them() -> None:
    text = 'id,note\n1,"said \\"ok\\", then left"\n2,C:\\new \\\\ \\"x\n'
    assert refusal(text, **NOTE) == "bad_csv"
    found = rows(text, **NOTE, escape="\\")
    assert [row["note"] for row in found] == ['said "ok", then left', 'C:\\new \\ "x'], "no other backslash means anything"


def packed(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


CSV = (HEADER + LINE).encode()


def test_gzip_and_zip_are_read() -> None:
    assert rows(gzip.compress(CSV)) == [ROW]
    assert rows(gzip.compress(HEADER.encode()) + gzip.compress(LINE.encode())) == [ROW], "members one after the other"
    assert rows(packed(**{"vitals.csv": CSV})) == [ROW]


@pytest.mark.parametrize("name", ["vitals.csv", "vitals.csv.gz", "vitals.csv.zip"])
def test_a_compressed_file_belongs_to_the_table_of_its_own_name(name: str) -> None:
    contract = Contract(source="x", version=1, tables={"vitals": table()})
    assert contract.table_of(name) == "vitals"
    assert contract.table_of("vitals.gz") is None


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (gzip.compress(CSV)[:-9], "truncated"),
        (gzip.compress(CSV)[:-8] + bytes(8), "bad_archive"),
        (packed(**{"a.csv": CSV, "b.csv": CSV}), "bad_archive"),
        (packed(), "binary"),
        (packed(**{"a.csv": CSV})[:-10], "truncated"),
        (packed(**{"a.csv": CSV}).replace(b"a.csv", b"b.csv", 1), "bad_archive"),
        (gzip.compress(b"\x00" * 30_000_000, 1), "file_too_large"),
        (packed(**{"a.csv": b"\x00" * 30_000_000}), "file_too_large"),
        (gzip.compress(gzip.compress(CSV)), "binary"),
        (gzip.compress(b""), "empty_file"),
    ],
    # gzip writes the time into its header: an id made of the bytes would differ from one test process to the other.
    ids=["cut", "no_length", "two_files", "no_file", "cut_zip", "names_disagree", "bomb", "zip_bomb", "twice", "of_nothing"],
)
def test_what_is_packed_wrongly_is_refused(data: bytes, code: str) -> None:
    assert refusal(data) == code
