"""Makes `docs/compatibility.md` from the matrix: ``python -m fhir_writeback_dagster.rules.target.compatibility FILE``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from fhir_writeback_dagster.rules.target.matrix import Cell, Known, OwnCode, Vendor, load_vendor, vendors

MARKS: dict[Known | None, str] = {"measured": "●", "verified": "◉", "secondary": "◐", "unverified": "○", None: "·"}
_SUMMARY = {
    "creates": "create.types",
    "own API": "create.own_api",
    "precondition": "create.precondition",
    "PUT": "update.put",
    "PATCH": "update.patch",
    "guard of updates": "update.precondition",
    "bundles": "bundles.kinds",
    "read back": "answers.read_back",
}
_SILENCE = ("create without an answer", "update without an answer")
_INTRO = """\
<!-- Made by `python -m fhir_writeback_dagster.rules.target.compatibility docs/compatibility.md`; do not edit. -->
# What each EHR takes

Made from `fhir_writeback_dagster/rules/target/vendors/*.yaml`, the same data that `decide` asks before it approves, that the
adapters plan by, that the fault proxy's personalities and the contract tests are made of. A tenant's own CapabilityStatement
narrows it: both have to allow a write. [Adding an EHR](adding-an-ehr.md) tells how to write a file.

Every cell says how it is known:

| mark | known | means |
|---|---|---|
| ● | measured | we asked a running server |
| ◉ | verified | read in a captured `/metadata`, or on the vendor's own page |
| ◐ | secondary | a copy or a summary of the vendor's page |
| ○ | unverified | somebody remembers it so: ask the site, or run `fhir-writeback target probe` |
| · | unknown | nobody knows; the careful side is assumed |

What is assumed of an unknown: creatable and updatable are the types that the CapabilityStatement names; a create is preceded by
a search, and where our identifier cannot be relied on, found again by type, code and time; an update whose precondition is
unknown goes to a person; nothing goes in bundles. A write without an answer is repeated under a precondition, searched for, or
a person's ([how](exactly-once.md)).
"""


Retry = Literal["repeat", "search", "person"]
_CREATE: dict[Retry, str] = {
    "repeat": "it is looked for, and sent again under its precondition, which makes a second one harmless",
    "search": "it is looked for by our identifier, or by type, code and time, and sent again where that proves it absent; what "
    "has neither goes to a person",
    "person": "nothing proves it done or undone, so a person looks, and it is not sent again",
}
_UPDATE: dict[Retry, str] = {
    "repeat": "the resource is read, with its history, and the update is sent again under its precondition",
    "search": "",
    "person": "no precondition guards it, so it goes to a person before it is sent the first time",
}


def after_silence(vendor: Vendor) -> tuple[Retry | None, Retry | None]:
    """What becomes of a create, and of an update, that had no answer; None: the vendor takes none. As `commit.look` does it."""
    guarded = vendor.create.precondition.value in ("if_none_exist", "idempotency_key")
    create: Retry | None = "repeat" if guarded else "search"
    if vendor.create.own_api.value:
        create = "person"
    elif vendor.create.types.value == ():
        create = None
    if vendor.update.put.value == () and vendor.update.patch.value == ():
        return create, None
    return create, "repeat" if vendor.update.precondition.value in ("if_match", "if_unmodified_since") else "person"


def page(all_of: Iterable[Vendor]) -> str:
    """The whole page."""
    every = list(all_of)
    head = f"| EHR | {' | '.join((*_SUMMARY, *_SILENCE))} |"
    rule = "|---" * (len(_SUMMARY) + len(_SILENCE) + 1) + "|"
    rows = [_row(one) for one in every]
    return "\n".join([_INTRO, head, rule, *rows, "", *(part for one in every for part in _section(one))]).rstrip() + "\n"


def _row(vendor: Vendor) -> str:
    cells = " | ".join(_short(vendor, path) for path in _SUMMARY.values())
    retries = " | ".join(one or "none" for one in after_silence(vendor))
    return f"| [{vendor.title}](#{_anchor(vendor.title)}) | {cells} | {retries} |"


def _section(vendor: Vendor) -> list[str]:
    lines = [f"## {vendor.title}", "", f"`vendor: {vendor.vendor}`, adapter `{vendor.module}`", ""]
    lines += ["| | | how known |", "|---|---|---|"]
    lines += [f"| {path} | {_value(cell)} | {_known(vendor, cell)} |" for path, cell in vendor.cells() if _told(cell)]
    unknown = [path for path, cell in vendor.cells() if not _told(cell)]
    lines += ["", f"Unknown: {', '.join(unknown)}.", ""] if unknown else [""]
    lines += [*_silence(vendor), ""]
    if vendor.errors:
        lines += ["| error code | means | how known |", "|---|---|---|"]
        lines += [
            f"| `{error.code}` | {error.means.replace('_', ' ')}{_note(error.note)} | {_mark(vendor, error.source)} |"
            for error in vendor.errors
        ]
        lines.append("")
    lines += [f"- {quirk.text} {_mark(vendor, quirk.source)}" for quirk in vendor.quirks]
    lines += [""] if vendor.quirks else []
    sources = [
        f"- {MARKS[source.known]} *{key}*: {f'[{source.what}]({source.url})' if source.url else source.what}"
        for key, source in vendor.sources.items()
    ]
    return [*lines, "Sources:", "", *sources, ""]


def _silence(vendor: Vendor) -> list[str]:
    create, update = after_silence(vendor)
    own, fhir = vendor.create.own_api.get(()), vendor.create.types.get(("*",))
    lines = [f"- A create without an answer: **{create}**; {_CREATE[create]}"] if create else []
    if own and fhir:
        lines[0] += f". Over FHIR: **search**; {_CREATE['search']}"
    return [*lines, *([f"- An update without an answer: **{update}**; {_UPDATE[update]}"] if update else [])]


def _short(vendor: Vendor, path: str) -> str:
    cell = dict(vendor.cells())[path]
    if cell.value is None:
        return MARKS[None]
    value = cell.value
    shown = f"{len(value)} types" if isinstance(value, tuple) and len(value) > 3 else _text(value)
    return f"{shown} {MARKS[vendor.known(cell)]}"


def _told(cell: Cell[object]) -> bool:
    return cell.value is not None or cell.note is not None


def _value(cell: Cell[object]) -> str:
    return f"{'unknown' if cell.value is None else _text(cell.value)}{_note(cell.note)}"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, OwnCode):
        return f"`{value.code}` in {value.unit}"
    if isinstance(value, BaseModel):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.model_dump(exclude_defaults=True).items())
    return "all" if value == "*" else str(value).replace("_", " ")


def _note(note: str | None) -> str:
    return f"; {note}" if note else ""


def _known(vendor: Vendor, cell: Cell[object]) -> str:
    return _mark(vendor, cell.source) if cell.source else MARKS[None]


def _mark(vendor: Vendor, source: str) -> str:
    return f"{MARKS[vendor.sources[source].known]} {source}"


def _anchor(title: str) -> str:
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def main(file: str) -> None:
    Path(file).write_text(page(map(load_vendor, vendors())), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
