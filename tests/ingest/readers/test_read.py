"""A file is read whole, as text, or refused whole: what, where, the fix — and never a value of it."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.contracts.contract import Table
from fhir_writeback_dagster.ingest.contracts.reserved_columns import BROKEN, LINE
from fhir_writeback_dagster.ingest.readers.read import MAX_FIELD, read

SECRET = "Jane-Doe-1970"


def table(**changes: Any) -> Table:
    columns = changes.pop("columns", {"a": "operational", "b": "source_only"})
    document = {"files": "*", "format": "csv", "columns": columns, "rows": [{"not_written": "reference_only"}], **changes}
    return Table.model_validate(document)


def refused(data: bytes, *, whole: bool = False, **changes: Any) -> ExtractRefused:
    with pytest.raises(ExtractRefused) as caught:
        read(data, table(**changes), whole=whole)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert caught.value.fix
    return caught.value


def test_text_arrives_as_it_was_delivered() -> None:
    frame = read(b'a,b\r\n 1 ,"x, ""y""\nz"\r\n007,\r\n', table(), whole=False)
    assert frame.rows() == [(" 1 ", 'x, "y"\nz'), ("007", "")]


def test_a_byte_order_mark_is_no_part_of_the_first_name() -> None:
    assert read("\ufeffa,b\n1,2\n".encode(), table(), whole=False).columns == ["a", "b"]


def test_a_declared_encoding_and_delimiter_are_used() -> None:
    frame = read("a;b\nMüller;ß\n".encode("windows-1252"), table(encoding="windows-1252", delimiter=";"), whole=False)
    assert frame.rows() == [("Müller", "ß")]


def test_a_header_alone_is_a_file_without_rows() -> None:
    assert read(b"a,b\n", table(), whole=False).height == 0


@pytest.mark.parametrize("data", [b"", b"\n", b" \r\n\t"])
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_an_empty_file(data: bytes, form: str) -> None:
    assert refused(data, format=form).code == "empty_file"


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_byte_order_mark_alone_is_an_empty_file(form: str) -> None:
    assert refused(b"\xef\xbb\xbf\r\n", format=form).code == "empty_file"


def test_a_wrong_encoding_says_line_and_byte() -> None:
    error = refused(b"a,b\n1,ok\n2,M\xfcller " + SECRET.encode() + b"\n")
    assert (error.code, error.line, error.byte) == ("wrong_encoding", 3, 12)


def test_utf_16_is_called_by_its_name() -> None:
    error = refused("a,b\n1,2\n".encode("utf-16"))
    assert error.code == "wrong_encoding"
    assert "UTF-16" in str(error)


def test_binary_is_refused_at_its_first_byte() -> None:
    assert (refused(b"a,b\n1,\x00\n").code, refused(b"a,b\n1,\x00\n").byte) == ("binary", 6)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"a,b\n1,2\n3", 3),
        (b"a,b\n1,2\n3\n", 3),
        (b'a,b\n1,2\n3,"' + SECRET.encode(), 3),
        (b'a,b\n1,"x\ny"\n3,4\n5,"z\n', 5),
        (b"a,b\n1,2\n3," + SECRET.encode(), 3),  # whole rows, but the last value may be cut
    ],
)
def test_a_truncated_csv_says_the_line_where_it_breaks(data: bytes, line: int) -> None:
    error = refused(data)
    assert (error.code, error.line) == ("truncated", line)


def test_a_missing_last_line_end_is_no_cut_where_the_file_is_proved_whole() -> None:
    assert read(b"a,b\n1,2", table(), whole=True).height == 1
    assert read(b"a,b\n1,2", table(final_newline="optional"), whole=False).height == 1


@pytest.mark.parametrize("line", ["1,2,3", "1"])
def test_a_row_of_another_width_ends_alone(line: str) -> None:
    frame = read(f"a,b\n{line}\n4,5\n".encode(), table(), whole=False)
    assert frame.rows(named=True) == [
        {"a": None, "b": None, BROKEN: "ragged_row", LINE: line},
        {"a": "4", "b": "5", BROKEN: None, LINE: None},
    ]


def test_a_file_whose_rows_are_all_of_another_width_is_refused() -> None:
    error = refused(b"a,b\n1,2,3\n4,5,6\n")
    assert (error.code, error.line) == ("ragged_row", 2)


def test_a_stray_quote() -> None:
    error = refused(b'a,b\n1,2\n3,"x"' + SECRET.encode() + b"\n")
    assert (error.code, error.line) == ("bad_csv", 3)


def test_a_missing_column_is_named_and_the_delivered_ones_are_not() -> None:
    error = refused(f"{SECRET},b\n1,2\n".encode())
    assert error.code == "missing_column"
    assert "no column a" in str(error)


def test_an_optional_column_that_is_missing_says_nothing() -> None:
    frame = read(b"b\n2\n", table(columns={"a": "optional operational", "b": "source_only"}), whole=False)
    assert frame.select("a", "b").rows() == [(None, "2")]


def test_an_extra_column_stays_with_its_rows() -> None:
    assert read(b"a,b,c\n1,2,3\n", table(), whole=False).rows() == [("1", "2", "3")]


def test_a_duplicate_header_is_refused_by_its_place() -> None:
    error = refused(f"a,b,{SECRET},{SECRET}\n1,2,3,4\n".encode())
    assert (error.code, error.line) == ("duplicate_header", 1)
    assert "column 4" in str(error)


def test_a_nameless_column_is_refused() -> None:
    assert refused(b"a,b,\n1,2,3\n").code == "bad_header"


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_field_of_10_mb_is_refused(form: str) -> None:
    long = "x" * 10_000_000
    data = {
        "csv": f"a,b\n1,2\n3,{long}\n".encode(),
        "jsonl": json.dumps({"a": 1, "b": long}).encode(),
        "parquet": parquet(a=["1"], b=[long]),
    }
    assert refused(data[form], format=form).code == "field_too_large"


def test_the_limit_is_this_readers_own() -> None:
    import csv

    before = csv.field_size_limit()
    read(f"a,b\n1,{'x' * (MAX_FIELD - 1)}\n".encode(), table(), whole=False)
    assert csv.field_size_limit() == before


def test_json_lines_keep_their_digits_and_flatten() -> None:
    data = b'{"a": 72.50, "p": {"mrn": "1", "n": {"x": true}}, "l": [1.10]}\n\n{"a": null, "p": {"mrn": "2"}, "b": 1}\n'
    frame = read(data, table(format="jsonl", columns={"a": "operational", "p.mrn": "source_only"}), whole=False)
    assert frame.to_dicts() == [
        {"a": "72.50", "p.mrn": "1", "p.n.x": "true", "l": "[1.10]", "b": None},
        {"a": None, "p.mrn": "2", "p.n.x": None, "l": None, "b": "1"},
    ]


def test_truncated_json_lines_say_the_line() -> None:
    error = refused(b'{"a": 1, "b": 2}\n{"a": 1, "b": "' + SECRET.encode(), format="jsonl")
    assert (error.code, error.line) == ("truncated", 2)


def test_json_lines_without_a_last_line_end_are_whole() -> None:
    assert read(b'{"a": 1, "b": 2}', table(format="jsonl"), whole=False).height == 1


@pytest.mark.parametrize("line", ["nonsense", "[1]", '"x"', "1", '{"a": NaN}', '{"a": 1, "b": 2', '{"a.b": 1, "a": {"b": 2}}'])
def test_a_line_that_is_no_object_ends_alone(line: str) -> None:
    frame = read(f'{{"a": 1, "b": 2}}\n{line}\n{{"a": 3, "b": 4}}\n'.encode(), table(format="jsonl"), whole=False)
    assert frame["a"].to_list() == ["1", None, "3"]
    assert frame[LINE].to_list() == [None, line, None]
    assert frame[BROKEN][1] in {"bad_json", "duplicate_name"}


def test_a_file_without_an_object_is_refused() -> None:
    error = refused(b"a,b\n1,2\n", format="jsonl")
    assert (error.code, error.line) == ("bad_json", 1)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_what_a_reader_says_of_a_line_cannot_be_delivered(form: str) -> None:
    data = {
        "csv": f"a,b,{BROKEN}\n1,2,{SECRET}\n".encode(),
        "jsonl": json.dumps({"a": 1, "b": 2, BROKEN: SECRET}).encode(),
        "parquet": parquet(a=["1"], b=["2"], **{BROKEN: [SECRET]}),
    }
    assert refused(data[form], format=form).code == "bad_header"


def test_deep_json_is_refused_and_does_not_crash() -> None:
    assert refused(b'{"a": ' + b"[" * 100_000 + b"\n", format="jsonl").code == "bad_json"
    for depth in (100, 900, 5_000, 100_000):
        deep = b'{"a": ' * depth + b"1" + b"}" * depth
        assert refused(deep + b"\n", format="jsonl").code in {"bad_json", "too_deep"}


def parquet(**columns: list[Any]) -> bytes:
    out = io.BytesIO()
    pl.DataFrame(columns).write_parquet(out)
    return out.getvalue()


def test_parquet_becomes_text() -> None:
    data = parquet(
        a=[Decimal("72.50"), None],
        b=[datetime(2024, 3, 1, 10, tzinfo=UTC), datetime(2024, 3, 1, 10, 0, 0, 500_000, tzinfo=UTC)],
        c=[True, False],
    )
    frame = read(data, table(format="parquet"), whole=False)
    assert frame.rows() == [
        ("72.50", "2024-03-01T10:00:00+00:00", "true"),
        (None, "2024-03-01T10:00:00.500+00:00", "false"),
    ]


def test_a_truncated_parquet_file() -> None:
    data = parquet(a=["1"], b=["2"])
    assert refused(data[:-10], format="parquet").code == "truncated"
    assert refused(b"PAR1" + b"\x00" * 50 + b"PAR1", format="parquet").code == "bad_parquet"
    assert refused(b"a,b\n1,2\n", format="parquet").code == "not_parquet"


def test_nested_parquet_columns_are_refused_by_place() -> None:
    assert "column 2" in str(refused(parquet(a=["1"], b=[[SECRET]]), format="parquet"))


@given(st.binary(max_size=200), st.sampled_from(["csv", "jsonl", "parquet"]))
def test_any_bytes_are_read_or_refused(data: bytes, form: str) -> None:
    try:
        frame = read(data, table(format=form, columns={"a": "optional operational"}), whole=True)
    except ExtractRefused:
        return
    assert set(frame.dtypes) <= {pl.String}


@given(
    st.lists(
        st.tuples(*[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=10)] * 2), max_size=5
    )
)
def test_what_a_strict_writer_writes_is_read_back(rows: list[tuple[str, str]]) -> None:
    import csv

    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(["a", "b"])
    writer.writerows(rows)
    assert read(out.getvalue().encode(), table(), whole=False).rows() == rows
