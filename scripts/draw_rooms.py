"""Make the tree and the picture of `docs/rooms.md` from the package itself: ``python scripts/draw_rooms.py docs/rooms.md``.

The tree has a line for each room, which is the docstring of its ``__init__.py``; the arrows are the imports between the layers.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "fhir_writeback_dagster"
_SHOWN = ("ingest", "decide", "commit", "audit", "orchestration", "rules", "store", "config", "ops", "sandbox", "locations")


def render(page: str) -> str:
    """``page`` with what stands between its markers made anew."""
    for name, made in (("tree", _tree()), ("picture", _picture())):
        begin, end = f"<!-- {name}: made by scripts/draw_rooms.py -->\n", f"<!-- end of {name} -->"
        before, _, rest = page.partition(begin)
        page = before + begin + made + end + rest.partition(end)[2]
    return page


def _tree() -> str:
    lines = [f"{'  ' * depth}{folder.name + '/':<{26 - 2 * depth}} {about}" for folder, depth, about in _rooms(PACKAGE, 0)]
    return "```\n" + "\n".join(lines) + "\n```\n"


def _rooms(folder: Path, depth: int) -> Iterator[tuple[Path, int, str]]:
    module = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    yield folder, depth, (ast.get_docstring(module) or "").partition("\n")[0]
    for inner in sorted(folder.iterdir()):
        if (inner / "__init__.py").is_file():
            yield from _rooms(inner, depth + 1)


def _picture() -> str:
    """A Mermaid flowchart of who imports whom, without what follows from other arrows."""
    imports = {layer: _imported(layer) for layer in _SHOWN}
    needless = {(a, c) for a, found in imports.items() for b in found for c in _reached(imports, b) if c in found}
    arrows = [f"  {a} --> {b}" for a, found in imports.items() for b in sorted(found) if (a, b) not in needless]
    return "\n".join(["```mermaid", "flowchart TD", *arrows, "```", ""])


def _reached(imports: dict[str, set[str]], layer: str) -> set[str]:
    found: set[str] = set()
    todo = [layer]
    while todo:
        for other in imports[todo.pop()] - found:
            found.add(other)
            todo.append(other)
    return found


def _imported(layer: str) -> set[str]:
    found = set()
    for path in (PACKAGE / layer).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{PACKAGE.name}."):
                found.add(node.module.split(".")[1])
    return found & set(_SHOWN) - {layer}


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(render(file.read_text(encoding="utf-8")), encoding="utf-8")
