"""``fhir-writeback validate FILE…``: the syntactic and semantic layers on resources in files, JSON or NDJSON.

The line of a resource holds codes and paths, never a value, so it may go into a ticket.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.decide.validation.issues import Issue
from fhir_writeback_dagster.decide.validation.validate import validate
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.jsontext import names_twice

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def validate_files(paths: Iterable[str]) -> Iterator[dict[str, Any]]:
    """``{"valid", "issues": [{"layer", "code", "path", "severity"}]}`` for each resource, in the order of the input.

    A path is a file or ``-`` for standard input. A file holds one resource, an array of resources, a Bundle (its entries count)
    or one of these a line. What is no JSON is one invalid result, with its line as path; so is a JSON object in which a name
    stands twice, for readers differ in which of the two they take.

    :raises ConfigError: a file that cannot be read.
    """
    for path in paths:
        if path == "-":
            yield from _results(sys.stdin.buffer)
            continue
        try:
            with Path(path).open("rb") as stream:
                yield from _results(stream)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConfigError("file_unreadable", reason, where=path, fix="name a file that can be read, or -") from None


def _results(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    marked = ((number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line) for number, line in enumerate(stream, 1))
    numbered = ((number, line) for number, line in marked if line.strip())
    first = next(numbered, (1, b""))
    if _is_document(_parse(first[1])):
        yield from _of_lines(chain([first], numbered))
        return
    lines = [first, *numbered]
    text = b"".join(line for _, line in lines)
    whole = _parse(text)
    if _is_document(whole) and names_twice(text):
        yield _result([Issue("syntactic", "duplicate_key", f"line {first[0]}")])
    elif _is_document(whole):
        yield from _of_document(whole)
    elif any(isinstance(one := _parse(line), dict) and "resourceType" in one for _, line in lines[1:]):
        yield from _of_lines(lines)  # NDJSON that begins with a broken line
    else:
        yield _not_json(first[0])


def _of_lines(lines: Iterable[tuple[int, bytes]]) -> Iterator[dict[str, Any]]:
    for number, line in lines:
        document = _parse(line)
        if not _is_document(document):
            yield _not_json(number)
        elif names_twice(line):
            yield _result([Issue("syntactic", "duplicate_key", f"line {number}")])
        else:
            yield from _of_document(document)


def _is_document(value: Any) -> bool:
    return isinstance(value, dict | list)


def _parse(data: bytes) -> Any:
    try:
        return canonicaljson.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _of_document(document: dict[str, Any] | list[Any]) -> Iterator[dict[str, Any]]:
    if isinstance(document, list):
        resources: list[Any] = document
    elif document.get("resourceType") == "Bundle":
        entries = document.get("entry", [])
        if not isinstance(entries, list):
            yield _result([Issue("syntactic", "type", "Bundle.entry")])
            return
        if wrong := [number for number, entry in enumerate(entries) if not isinstance(entry, dict)]:
            yield _result([Issue("syntactic", "type", f"Bundle.entry[{number}]") for number in wrong])
        resources = [entry["resource"] for entry in entries if isinstance(entry, dict) and "resource" in entry]
    else:
        resources = [document]
    for resource in resources:
        yield _result(validate(resource) if isinstance(resource, dict) else [Issue("syntactic", "type", "")])


def _not_json(line: int) -> dict[str, Any]:
    return _result([Issue("syntactic", "not_json", f"line {line}")])


def _result(issues: list[Issue]) -> dict[str, Any]:
    return {
        "valid": not any(issue.severity == "error" for issue in issues),
        "issues": [issue.to_json() for issue in issues],
    }


@click.command("validate")
@click.argument("files", nargs=-1, required=True, metavar="FILE…|-")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a resource.")
def validate_command(files: tuple[str, ...], *, as_json: bool) -> None:
    """Validate FHIR R4 resources of the written types: JSON, NDJSON or Bundles.

    One line a resource, in the order of the input; exit code 1 if any is invalid, 2 if a file cannot be read.
    """
    valid = True
    for number, result in enumerate(validate_files(files), 1):
        valid = valid and result["valid"]
        click.echo(canonicaljson.encode(result).decode() if as_json else _line(number, result))
    sys.exit(0 if valid else 1)


def _line(number: int, result: dict[str, Any]) -> str:
    word = "valid" if result["valid"] else "invalid"
    found = "; ".join(f"{i['layer']} {i['severity']} {i['code']} {i['path']}".rstrip() for i in result["issues"])
    return f"{number} {word}{': ' if found else ''}{found}"
