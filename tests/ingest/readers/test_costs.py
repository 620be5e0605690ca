"""No file of less than a megabyte costs more than seconds and 300 MB, and none raises anything but a refusal."""

from __future__ import annotations

import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingest.readers.attacks import ALL, MEGABYTE
from ingest.readers.cost import Cost, cost

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is Linux's to tell")

MOST_SECONDS, MOST_MEGABYTES = 5.0, 300
"""On a quiet core every attack needs less than one second of the processor. Where cores are shared it is counted double and more,
so five are allowed here: what is not linear needs a multiple of that.
"""


def within(data: bytes, form: str) -> Cost:
    """The least of three tries counts: on a shared machine one may have to wait for memory."""
    for _ in range(3):
        found = cost(data, form)
        if found.seconds <= MOST_SECONDS:
            break
    assert found.seconds <= MOST_SECONDS
    assert found.megabytes <= MOST_MEGABYTES
    return found


@pytest.mark.parametrize("name", ALL)
def test_a_small_file_that_asks_for_much_is_refused_or_cheap(name: str) -> None:
    form, data = ALL[name]
    assert len(data) <= MEGABYTE
    within(data, form)


#: What each format is made of; repeated and put together it is whatever somebody may send.
PARTS = {
    "csv": ["a", ",", "\n", "\r", '"', '""', "1", "\x1f", "\\", "sep=;\n", "é", " ", "a,b,c\n", "1,2,3\n"],
    "jsonl": [
        "{",
        "}",
        '"a":',
        '"b.c":',
        "1",
        "[",
        "]",
        ",",
        "\n",
        '"',
        "\\u0000",
        "NaN",
        "1e999",
        '{"a":1}\n',
        '{"a":{"b":[1]}}\n',
    ],
    "html": [
        *("<table>", "</table>", "<tr>", "<td>", "<th>a</th>", "<thead>", "<td rowspan=3>", "<td colspan=900>", "<td colspan=0>"),
        *(
            "<script>",
            "</script>",
            "<!--",
            "-->",
            "<b ",
            'x="',
            "'",
            ">",
            "<sup>",
            "</sup>",
            "<select>",
            "<option selected>",
            "&#x0;",
        ),
        *("<template>", "<p>", "<br>", "x", " ", "<svg>", "<![CDATA[", "<?x ", "</html>", "<html>", "<div hidden>", "</div>"),
    ],
    "fhir": [
        *("{", "}", "[", "]", ",", '"resourceType":"Patient"', '"resourceType":"Bundle","entry":[{"resource":', '"id":"1"', "\n"),
        *(
            '"subject":{"reference":"Patient/1"}',
            '"name":[',
            "1",
            '"x"',
            '{"resourceType":"Observation","id":"1"}\n',
            '"contained":[',
        ),
    ],
}


@pytest.mark.parametrize("form", PARTS)
def test_whatever_is_put_together_is_refused_or_cheap(form: str) -> None:
    part = st.sampled_from(PARTS[form])
    run = st.tuples(st.lists(part, min_size=1, max_size=4).map("".join), st.sampled_from([1, 1, 1, 3, 100, 20_000, 300_000]))

    @settings(max_examples=15, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(run, max_size=6))
    def check(runs: list[tuple[str, int]]) -> None:
        text = "".join(piece * min(times, MEGABYTE // (6 * len(piece.encode()))) for piece, times in runs)
        within(text.encode(), form)

    check()


@given(
    st.binary(max_size=300), st.sampled_from(["parquet", "csv"]), st.sampled_from([b"", b"PAR1", b"\x1f\x8b\x08", b"PK\x03\x04"])
)
def test_any_bytes_behind_a_formats_first_are_refused_or_read(data: bytes, form: str, first: bytes) -> None:
    within(first + data + (b"PAR1" if first == b"PAR1" else b""), form)


@settings(max_examples=50)
@given(st.sampled_from(["parquet-rows", "parquet-cells", "csv-zip_bomb", "csv-gzip_members"]), st.data())
def test_a_file_with_a_few_wrong_bytes_is_refused_or_read(name: str, drawn: st.DataObject) -> None:
    form, whole = ALL[name]
    data = bytearray(whole[:20_000] + whole[-2_000:])
    for at, byte in drawn.draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=5)):
        data[at] = byte
    within(bytes(data), form)
