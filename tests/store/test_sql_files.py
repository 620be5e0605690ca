"""Long statements are files beside their module, and every such file is executed by somebody."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from support import PROJECT

PACKAGE = PROJECT / "fhir_writeback_dagster"
LINES = 9
_VERB = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|MERGE|CREATE|ALTER)\b")


def literals(path: Path) -> Iterator[ast.Constant | ast.JoinedStr]:
    for node in ast.walk(ast.parse(path.read_text())):
        first = node.values[0] if isinstance(node, ast.JoinedStr) and node.values else node
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and _VERB.match(first.value):
            assert isinstance(node, ast.Constant | ast.JoinedStr)
            yield node


def test_no_statement_in_python_is_long() -> None:
    long = [
        f"{path.relative_to(PROJECT)}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in literals(path)
        if (node.end_lineno or node.lineno) - node.lineno + 1 > LINES
    ]
    assert long == [], "a file in the folder `sql` of its package, read by store.sqlfile"


def test_every_statement_s_file_is_named_in_its_package() -> None:
    for path in PACKAGE.rglob("sql/*.sql"):
        code = "".join(module.read_text() for module in path.parent.parent.rglob("*.py"))
        assert f'"{path.stem}"' in code, path
