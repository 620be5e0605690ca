"""Tables of an HTML page as rows: nested headers, merged cells, several tables a page, values that stand outside of them.

A page's tables of data are those without a table inside; of these every one is read whose header has all required columns,
one after the other. The header is the ``thead``, or the leading rows of ``th`` alone; a column's name is what stands above it,
from top to bottom: ``Result / Unit``. A merged cell says its text in each row and column that it covers, as HTML means it. A
row that is one cell is the heading of those below it. Footers, repeated headers and what is hidden or struck out within a cell
are left out (:mod:`~fhir_writeback_dagster.ingest.readers.html_text`).

Columns that a contract may declare beside these: ``@caption``, ``@section`` (the heading), ``@column 3`` (one without a name),
and those of its ``page``: name → XPath of the one place outside of the table that holds it, such as the patient's banner.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl
from lxml import etree

from fhir_writeback_dagster.errors import ExtractRefused
from fhir_writeback_dagster.ingest.contracts.contract import Table
from fhir_writeback_dagster.ingest.readers.html_text import text_of
from fhir_writeback_dagster.ingest.readers.limits import Shape

#: More than any portal shows; a page that claims more, by its spans or by its tags, is no page for people.
MAX_COLUMNS, MAX_CELLS, MAX_TAGS, MAX_PAGE = 1_000, 1_000_000, 200_000, 64 * 1024 * 1024
_MAX_SPAN = 65_534  # HTML, 4.9.11
#: Characters of one tag outside of quotes: the parser compares each attribute with all before it (120,000 took 28 s, measured).
_MAX_TAG = 4_096

_AS_SENT = "deliver the page as the portal sent it"

#: Comments, elements that hold no tags, and tags, each to its end or to the end of the page: so all of it is looked at once.
_MARKUP = re.compile(
    r"<!--.*?(?P<comment>-->|\Z)|<(?P<silent>script|style|template)\b.*?(?P<end></(?P=silent)\s*>|\Z)"
    r"|<(?P<close>/?)(?P<name>[a-z][a-z0-9:-]*+)(?P<rest>(?>=\s*+\"[^\"]*+\"|=\s*+'[^']*+'|[^>])*+)",
    re.IGNORECASE | re.DOTALL,
)
_QUOTED = re.compile(r"=\s*+(?:\"[^\"]*+\"|'[^']*+')")


@dataclass(frozen=True, slots=True, eq=False)
class _Cell:
    """Compared by identity: the same cell stands in every slot that it covers."""

    text: str
    head: bool


class _Line(NamedTuple):
    number: int
    cells: list[_Cell]
    texts: list[str]
    is_header: bool


def read_tables(text: str, table: Table, *, whole: bool) -> pl.DataFrame:
    """Rows of every table of the page that has the contract's required columns, in the page's order.

    :param whole: the file is proved whole (by its manifest), so that a page without its last tag is no sign of a cut.
    :raises ExtractRefused: a page that is cut, has no such table or more than one place for a value of ``page``, or a row that
        does not fit its header; ``line`` is the page's.
    """
    _check_whole(text, whole=whole)
    # Not lxml.html's own, which looks up a class in Python for each element.
    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=True)
    try:
        root = etree.fromstring(text.encode(), parser=parser)
    except etree.LxmlError:
        root = None
    if root is None:
        raise ExtractRefused("bad_html", "there is no page in it", fix=_AS_SENT)
    # The parser stops where elements are more than 2,048 deep in one another, and says so only here.
    if any(error.type_name == "ERR_RESOURCE_LIMIT" or error.level_name == "FATAL" for error in parser.error_log):
        raise ExtractRefused("too_deep", "elements lie too deep in one another", fix=_AS_SENT)
    wanted = [name for name in table.required if name not in table.page and not name.startswith("@")]
    rows: list[dict[str, str | None]] = []
    shape = Shape(MAX_CELLS, MAX_COLUMNS)
    missing: list[str] | None = None
    for element in _tables_of_data(root):
        header, lines = _read(element, shape)
        if lacking := [name for name in wanted if name not in header]:
            missing = lacking if missing is None or len(lacking) < len(missing) else missing
            continue
        missing = []
        caption = " ".join(text_of(c) for c in element.iterchildren("caption")) or None
        rows += [{"@caption": caption, **row} for row in _rows(header, lines)]
    if missing is None or missing:
        raise ExtractRefused(
            "missing_column",
            f"no table of the page has {', '.join(missing or wanted)}",
            fix="deliver the page with it, or make a version of the contract for its new header",
        )
    page = _page(root, table)
    names = dict.fromkeys(name for row in rows for name in row if not name.startswith("@") or name in table.columns)
    names = dict.fromkeys([*wanted, *table.page]) | names
    Shape(MAX_CELLS, MAX_COLUMNS).check(len(rows), len(names))
    return pl.DataFrame({name: pl.Series([row.get(name, page.get(name)) for row in rows], dtype=pl.String) for name in names})


def _tables_of_data(root: Any) -> Iterator[Any]:
    """Tables without a table inside, in the page's order."""
    last = None
    for event, element in etree.iterwalk(root, events=("start", "end"), tag="table"):
        if event == "start":
            last = element
        elif element is last:
            yield element


def _check_whole(text: str, *, whole: bool) -> None:
    """In one pass: does the page end, and has it no more tags than a page has?

    :raises ExtractRefused: see there.
    """
    if len(text) > MAX_PAGE:
        raise ExtractRefused("file_too_large", f"a page of more than {MAX_PAGE} characters", fix="deliver it in parts")
    tags: Counter[tuple[str, str]] = Counter()
    for count, found in enumerate(_MARKUP.finditer(text)):
        if count > MAX_TAGS:
            raise ExtractRefused("too_wide", f"more than {MAX_TAGS} tags", line=_line(text, found.start()), fix=_AS_SENT)
        if found["comment"] == "" or found["end"] == "":
            raise _cut("comment" if found["comment"] == "" else found["silent"].lower(), text)
        if name := found["name"]:
            if len(found["rest"]) > _MAX_TAG and len(_QUOTED.sub("", found["rest"])) > _MAX_TAG:
                raise ExtractRefused("too_wide", "a tag has too many attributes", line=_line(text, found.start()), fix=_AS_SENT)
            tags[found["close"], name.lower()] += 1
    if tags["", "table"] > tags["/", "table"]:
        raise _cut("table", text)
    if not whole and tags["", "html"] and not tags["/", "html"]:
        raise _cut("text", text)


def _cut(within: str, text: str) -> ExtractRefused:
    return ExtractRefused(
        "truncated", f"the page ends within its {within}", line=_line(text, len(text)), fix="deliver the whole page again"
    )


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _page(root: Any, table: Table) -> dict[str, str | None]:
    values: dict[str, str | None] = {}
    for name, path in table.page.items():
        found = {" ".join(one.split()) if isinstance(one, str) else text_of(one) for one in root.xpath(path)} - {""}
        if len(found) > 1 or (not found and table.columns[name].required):
            raise ExtractRefused(
                "page_value",
                f"{name} stands on the page {'more than once, differently' if found else 'nowhere'}",
                fix="deliver the page with it, or fix its XPath in a version of the contract",
            )
        values[name] = next(iter(found), None)
    return values


def _read(element: Any, shape: Shape) -> tuple[list[str], list[_Line]]:
    """Names of the columns, and the lines below the header; no names where there is no header."""
    groups = _groups(element)
    head = [line for kind, rows in groups if kind == "thead" for line in _lines(rows, shape)]
    body = [line for kind, rows in groups if kind == "tbody" for line in _lines(rows, shape)]
    while not head or (body and body[0].is_header and not any(kind == "thead" for kind, _ in groups)):
        if not body or not body[0].is_header:
            break
        head.append(body.pop(0))
    if not head:
        return [], []
    width = max(len(line.cells) for line in head)
    names = []
    for at in range(width):
        above = dict.fromkeys(line.cells[at] for line in head if at < len(line.cells))
        names.append(" / ".join(cell.text for cell in above if cell.text) or f"@column {at + 1}")
    if len(set(names)) < len(names):
        at = next(n for n, name in enumerate(names) if name in names[:n])
        raise ExtractRefused(
            "duplicate_header",
            f"column {at + 1} of a table has the name of an earlier one",
            line=head[0].number,
            fix="a header above both would tell them apart",
        )
    again = [line.texts for line in head]
    return names, [line for line in body if not (line.is_header and line.texts in again)]


def _groups(element: Any) -> list[tuple[str, list[Any]]]:
    """Row groups in order; rows that stand directly in the table are a body."""
    groups: list[tuple[str, list[Any]]] = []
    for part in element.iterchildren("thead", "tbody", "tfoot", "tr"):
        if part.tag != "tr":
            groups.append((part.tag, list(part.iterchildren("tr"))))
        elif groups and groups[-1][0] == "tbody":
            groups[-1][1].append(part)
        else:
            groups.append(("tbody", [part]))
    return groups


def _lines(rows: Sequence[Any], shape: Shape) -> Iterator[_Line]:
    """Rows of one group with each cell in every slot that it covers."""
    held: dict[int, tuple[_Cell, int]] = {}
    for number, row in enumerate(rows):
        slots: list[_Cell] = []
        for element in row.iterchildren("td", "th"):
            if held:
                _carry(held, slots)
            cell = _Cell(text_of(element), element.tag == "th")
            down = _span(element, "rowspan") or len(rows) - number
            across = min(_span(element, "colspan") or 1, MAX_COLUMNS + 1)
            if down > 1:
                held.update((at, (cell, down - 1)) for at in range(len(slots), len(slots) + across))
            slots += [cell] * across
        _carry(held, slots)
        shape.check(1, len(slots), row.sourceline)
        shape.cells -= len(slots)
        yield _Line(row.sourceline, slots, [cell.text for cell in slots], bool(slots) and all(cell.head for cell in slots))


def _carry(held: dict[int, tuple[_Cell, int]], slots: list[_Cell]) -> None:
    """Put the cells of rows above, as far as they reach down here."""
    while (above := held.pop(len(slots), None)) is not None:
        cell, left = above
        if left > 1:
            held[len(slots)] = (cell, left - 1)
        slots.append(cell)


def _span(element: Any, name: str) -> int:
    """A span as HTML reads it: 1 where it is no number; 0 stands for a rowspan to the end of its group."""
    said = element.get(name)
    if said is None:
        return 1
    text = said.strip()
    if not (text.isascii() and text.isdigit()):
        return 1
    return min(int(text), _MAX_SPAN) if len(text) <= len(str(_MAX_SPAN)) else _MAX_SPAN


def _rows(header: Sequence[str], lines: Sequence[_Line]) -> Iterator[dict[str, str | None]]:
    section: str | None = None
    for line in lines:
        if not any(line.texts):
            continue
        if (len(line.cells) == len(header) > 1 or line.is_header) and len(set(line.cells)) == 1:
            section = line.cells[0].text
            continue
        if len(line.cells) != len(header) or line.is_header:
            raise ExtractRefused(
                "ragged_row",
                f"{len(line.cells)} cells where the header has {len(header)}" if not line.is_header else "another header",
                line=line.number,
                fix="a table of its own for rows of another kind",
            )
        yield {**dict(zip(header, line.texts, strict=True)), "@section": section}
