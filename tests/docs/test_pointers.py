"""Every pointer of the repository leads somewhere: links, paths in backticks, and commands that docs and errors name."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import click
import pytest
from support import PROJECT

from fhir_writeback_dagster.cli import main

_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)|!\[[^\]\n]*\]\(([^)\s]+)\)")
_PATH = re.compile(r"`((?:docs|tests|scripts|policies|mappings|expectations|benchmarks|fhir_writeback_dagster)/[\w./-]+\w)`")
_COMMAND = re.compile(r"(?<![\w/\"-])fhir-writeback((?: [a-z][a-z-]*)+)")


def tracked(*patterns: str) -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z", "--", *patterns], cwd=PROJECT, capture_output=True, check=False)
    if done.returncode:  # not a checkout: an unpacked archive
        return [path for pattern in patterns for path in PROJECT.glob(pattern) if ".venv" not in path.parts]
    return [PROJECT / name for name in done.stdout.decode().split("\0") if name]


PAGES = tracked("*.md", "**/*.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_a_page_links_to_what_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    lost = []
    for inline, image in _LINK.findall(text):
        target, _, anchor = (inline or image).partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        file = (page.parent / target) if target else page
        if not file.exists():
            lost.append(target)
        elif anchor and file.suffix == ".md" and anchor not in _anchors(file):
            lost.append(f"{target}#{anchor}")
    lost += [path for path in _PATH.findall(text) if not list(PROJECT.glob(path))]
    assert lost == []


@cache
def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize(
    "file",
    [*PAGES, *tracked("fhir_writeback_dagster/*.py", ".env.example", "*.yaml")],
    ids=lambda f: f.relative_to(PROJECT).as_posix(),
)
def test_a_command_that_is_named_is_there(file: Path) -> None:
    text = re.sub(r"\s+", " ", file.read_text(encoding="utf-8"))
    lost = [words for words in _COMMAND.findall(text) if not _is_command(words.split())]
    assert lost == []


def test_a_comment_in_a_configuration_file_names_what_is_there() -> None:
    lost = {
        (file.name, path)
        for file in tracked(".env.example", "*.yaml", "pyproject.toml", "Makefile", ".gitignore")
        for path in re.findall(r"(?<![\w/])(docs/[\w./-]+\w)", file.read_text(encoding="utf-8"))
        if not list(PROJECT.glob(path))
    }
    assert lost == set()


def _is_command(words: list[str]) -> bool:
    """Words may go on in prose after a command, or be an argument of it; a group needs one of its own."""
    found: click.Command = main
    for word in words:
        if not isinstance(found, click.Group):
            return True
        inner = found.get_command(click.Context(found), word)
        if inner is None:
            return found is not main
        found = inner
    return True


def test_the_page_of_the_rooms_is_as_the_package_is() -> None:
    sys.path.insert(0, str(PROJECT / "scripts"))
    try:
        render = import_module("draw_rooms").render
    finally:
        sys.path.pop(0)
    page = (PROJECT / "docs" / "rooms.md").read_text(encoding="utf-8")
    assert page == render(page), "python scripts/draw_rooms.py docs/rooms.md"
