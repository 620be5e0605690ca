"""Files of less than a megabyte that ask for much more."""

from __future__ import annotations

import gzip
import io
import json
import zipfile

import polars as pl

MEGABYTE = 1_000_000


def _parquet(frame: pl.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.write_parquet(out, compression="zstd", statistics=False)
    return out.getvalue()


def _zip(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", data)
    return out.getvalue()


def _filled(start: str, part: str, end: str = "") -> bytes:
    return (start + part * ((MEGABYTE - len(start) - len(end)) // len(part.encode())) + end).encode()


def _numbered(start: str, part: str, end: str = "") -> bytes:
    parts, size, number = [start], len(start) + len(end), 0
    while size < MEGABYTE - 40:
        parts.append(part.format(number))
        size += len(parts[-1])
        number += 1
    return ("".join(parts) + end).encode()


def _patient(entries: int, elements: int) -> bytes:
    """A Patient with many elements that many resources name: each brings the elements along."""
    patient = {"resourceType": "Patient", "id": "p", "name": [{"given": ["x"] * elements}]}
    one = {"resourceType": "Observation", "subject": {"reference": "Patient/p"}}
    return json.dumps({"resourceType": "Bundle", "entry": [{"resource": r} for r in (patient, *[one] * entries)]}).encode()


HTML: dict[str, bytes] = {
    "scripts": _filled("", "<script>"),
    "scripts_closed": _filled("", "<script></script>"),
    "comments": _filled("", "<!--"),
    "comments_closed": _filled("", "<!---->"),
    "tags": _filled("", "<b>"),
    "ends": _filled("", "</b>"),
    "tag_without_end": _filled("", "<b "),
    "quotes_without_end": _filled("<b ", '="x='),
    "attributes": _numbered("<b", " a{}"),
    "attributes_in_quotes": _numbered("<b ", '"a{} '),
    "many_tags_of_attributes": b"".join(_numbered("<b", " a{}")[:4_000] + b">" for _ in range(240)),
    "nested": _filled("", "<div>"),
    "nested_tables": _filled("", "<table><tr><td>"),
    "rows": _filled("<table><tr><th>a</th></tr>", "<tr><td>", "</table>"),
    "cells": _filled("<table><tr>", "<td>", "</table>"),
    "spans": _filled("<table><tr><th colspan=999>a</th></tr>", "<tr><td colspan=1000>", "</table>"),
    "row_spans": _filled("<table><tr><th>a</th></tr>", "<tr><td rowspan=65534>", "</table>"),
    "long_span": _filled("<table><tr><th>a</th></tr><tr><td colspan=", "9", "></table>"),
    "tables": _numbered("", "<table><tr><th>a<th>b{}<tr><td>1<td>2</table>"),
    "superscripts": _filled("<table><tr><th>a</th></tr><tr><td>", "<sup>", "</table>"),
    "superscripts_closed": _filled("<table><tr><th>a</th></tr><tr><td>", "<sup>9</sup>", "</table>"),
    "entities": _filled("<table><tr><th>a</th></tr><tr><td>", "&amp;", "</table>"),
    "styles": _filled("<table><tr><th>a</th></tr><tr><td>", "<b style='opacity:0000000000000.'>x</b>", "</table>"),
}
JSONL: dict[str, bytes] = {
    "new_key_a_line": _numbered("", '{{"k{}":1}}\n'),
    "keys_in_one_line": _numbered('{"a":1', ',"k{}":1', "}\n"),
    "rows": _filled("", '{"a":1}\n'),
    "empty_objects": _filled("", "{}\n"),
    "empty_lines": _filled('{"a":1}', "\n"),
    "broken_lines": _filled('{"a":1}\n', "x\n"),
    "deep": _filled("", '{"a":'),
    "deep_lists": _filled('{"a":', "["),
    "one_list": _filled('{"a":[1', ",1", "]}\n"),
    "long_number": _filled('{"a":', "9", "}\n"),
    "exponents": _filled("", '{"a":1e9999}\n'),
}
CSV: dict[str, bytes] = {
    "header_only": _filled("a", ","),
    "wide_header": _numbered("a", ",k{}", "\n"),
    "duplicate_header": _filled("a", ",a", "\n"),
    "empty_fields": _filled("a" + "".join(f",k{n}" for n in range(1_000)) + "\n", "," * 1_000 + "\n"),
    "rows": _filled("a\n", "1\n"),
    "empty_lines": _filled("a\n", "\n"),
    "ragged_rows": _filled("a\n1\n", "1,2\n"),
    "one_ragged_row": _filled("a\n1\n", ",", "\n"),
    "open_quote": _filled('a\n"', "x"),
    "quotes": _filled('a\n"', '""', '"\n'),
    "lines_in_quotes": _filled('a\n"', "\n", '"\n'),
    "carriage_returns": _filled("a\r", "1\r"),
    "gzip_of_fields": gzip.compress(
        ("a" + "".join(f",k{n}" for n in range(1_000)) + "\n" + ("," * 1_000 + "\n") * 45_000).encode()
    ),
    "gzip_bomb": gzip.compress(b"a\n" + b"1" * 80_000_000),
    "gzip_members": gzip.compress(b"a\n") + gzip.compress(b"1\n") * 40_000,
    "zip_bomb": _zip(b"a\n" + b"1\n" * 10_000_000),
}
PARQUET: dict[str, bytes] = {
    "rows": _parquet(pl.DataFrame({"a": pl.repeat("x", 5_000_000, eager=True)})),
    "columns": _parquet(pl.DataFrame({f"k{n}": ["x"] for n in range(3_000)})),
    "cells": _parquet(pl.DataFrame({f"k{n}": pl.repeat("x", 20_000, eager=True) for n in range(100)})),
    "long_texts": _parquet(pl.DataFrame({"a": pl.repeat("x" * 1_000_000, 200, eager=True)})),
}
FHIR: dict[str, bytes] = {
    "patient_in_each": _patient(9_000, 2_400),
    "patients_of_their_own": b"\n".join([_patient(1, 10)] * 3_000)[:MEGABYTE].rpartition(b"\n")[0],
    "deep": _filled('{"resourceType":"Patient"', ',"a":{"x":1', ""),
    "deep_and_closed": b'{"resourceType":"Patient","a":' + b'{"a":' * 900 + b"1" + b"}" * 901,
    "elements": _numbered('{"resourceType":"Patient"', ',"k{}":1', "}"),
    "list": _filled('{"resourceType":"Patient","name":[1', ",1", "]}"),
    "new_element_a_line": _numbered("", '{{"resourceType":"Basic","k{}":1}}\n'),
    "resources": _filled("", '{"resourceType":"Basic"}\n'),
    "same_place": _filled("[", '{"resourceType":"Basic","id":"1","a":[1,2,3]},', '{"resourceType":"Basic"}]'),
    "lines_that_are_none": _filled('{"resourceType":"Basic"}\n', "x\n"),
}
ALL = {
    f"{form}-{name}": (form, data)
    for form, attacks in {"html": HTML, "jsonl": JSONL, "csv": CSV, "parquet": PARQUET, "fhir": FHIR}.items()
    for name, data in attacks.items()
}
