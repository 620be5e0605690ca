"""What a cell of a page says: what people see in it, and never two things glued into a third."""

from __future__ import annotations

import pytest
from lxml import html

from fhir_writeback_dagster.ingest.readers.html_text import text_of


def text(cell: str) -> str:
    return text_of(html.document_fromstring(f"<table><tr><td>{cell}</td></tr></table>").find(".//td"))


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("10<sup>9</sup>/L", "10⁹/L"),
        ("x10<sup>-3</sup>", "x10⁻³"),
        ("kg/m<sup>2</sup>", "kg/m²"),
        ("4.1<sup>2</sup>", "4.1²"),  # a footnote: no number
        ("4.1<sup>a</sup>", "4.1^a"),
        ("2<sub>1</sub>", "2₁"),
        ("pCO<sub>2</sub>", "pCO₂"),
        ("a<sup>b<sup>2</sup></sup>c", "a^b²c"),
        ("<del>5</del><ins>8</ins>", "8"),
        ("<s>1</s>2", "2"),
        ("<strike>1</strike>2", "2"),
        ('<span style="text-decoration: line-through">1</span>2', "2"),
        ("<select><option>1</option><option selected>2</option></select>", "2"),
        ("<select><option>1</option><option>2</option></select>", ""),  # nobody chose
        ("9<span class='sr-only'>7</span>", "9"),
        ("9<span class='x Visually-Hidden'>7</span>", "9"),
        ("5<span aria-hidden='true'>.</span>4", "5 4"),  # neither 5.4, which we cannot know, nor 54
        ("1<span hidden>2</span>3", "1 3"),
        ("1<span style='display: none'>2</span>3", "1 3"),
        ("1<span style='opacity:0'>2</span><span style='opacity:0.5'>3</span>", "1 3"),
        ("5<br>8", "5 8"),
        ("<p>5</p>8", "5 8"),
        ("<img alt='positive' src='plus.png'>", "positive"),
        ("<img src='plus.png'>", ""),
        ("<b>5</b>.<i>4</i> <!-- 9 -->", "5.4"),
        ("posi&shy;tive", "positive"),
        ("5<script>4</script>", "5"),
    ],
)
def test_a_cell_says_what_people_see(cell: str, said: str) -> None:
    assert text(cell) == said
