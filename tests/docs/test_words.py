"""One word, one meaning: class names, the glossary's words, and the form of decisions."""

from __future__ import annotations

import ast
import re
from collections import defaultdict

import pytest
from support import PROJECT

PACKAGE = PROJECT / "fhir_writeback_dagster"
DECISIONS = sorted((PROJECT / "docs" / "decisions").glob("*.md"))


def test_a_public_class_name_stands_for_one_thing() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path.relative_to(PACKAGE).as_posix())
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_every_word_of_the_glossary_is_used_by_the_code() -> None:
    glossary = (PROJECT / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = [word.strip() for row in re.findall(r"^\| ([^|]+) \|", glossary, re.MULTILINE)[1:] for word in row.split(",")]
    code = "\n".join(
        path.read_text(encoding="utf-8").lower()
        for pattern in ("*.py", "*.sql", "*.yaml")
        for folder in (PACKAGE, PROJECT / "tests", PROJECT / "docs" / "decisions")
        for path in folder.rglob(pattern)
    )
    spelt = {word: word.lower().replace("-", "[-_ ]?").replace(" ", "[-_ ]?") for word in words if not set(word) <= {"-", " "}}
    assert len(spelt) > 30
    assert [word for word, pattern in spelt.items() if not re.search(pattern, code)] == []


@pytest.mark.parametrize(
    "word", ["workplace", "shipment", "taxonomy", "presence", "told_apart_by", "happenings", "mend", "knock"]
)
def test_a_word_that_was_given_up_names_nothing_any_more(word: str) -> None:
    """Names of modules, classes, functions, parameters and attributes; docs/glossary.md has the word that took its place."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        names = {path.stem}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                    names.add(node.name)
                case ast.arg():
                    names.add(node.arg)
                case ast.Attribute():
                    names.add(node.attr)
                case ast.Name():
                    names.add(node.id)
        found |= {(path.name, name) for name in names if word in re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_")}
    assert found == set()


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_the_form_of_all(page: object) -> None:
    from pathlib import Path

    text = Path(str(page)).read_text(encoding="utf-8")
    assert re.match(r"# \d+\. \S", text)
    parts = re.findall(r"^\*\*(Status|Context|Decision|Consequences)\*?\*?[:.]", text, re.MULTILINE)
    assert parts == ["Status", "Context", "Decision", "Consequences"]
