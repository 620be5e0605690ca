"""Makes the parts of `docs/protocol.md` that come from the code: ``python -m fhir_writeback_dagster.commit.describe FILE``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from fhir_writeback_dagster.commit import taxonomy
from fhir_writeback_dagster.commit.protocol import Action, Event, diagram
from fhir_writeback_dagster.commit.taxonomy import Recovery, Row


def _diagram() -> str:
    return f"```mermaid\n{diagram()}\n```"


def _words() -> str:
    lines = ["| event | what happened |", "|---|---|", *(f"| `{event.name}` | {event} |" for event in Event)]
    lines += ["", "| action | what goes with the step |", "|---|---|", *(f"| `{action.name}` | {action} |" for action in Action)]
    return "\n".join(lines)


def _answers() -> str:
    rows = ["| status | request | class | recovery |", "|---|---|---|---|", *map(_answer, taxonomy.TABLE)]
    silence = [
        f"| no answer, certainly not sent | any | `{taxonomy.NOT_SENT.code}` | {taxonomy.NOT_SENT.recovery} |",
        f"| no answer, perhaps sent | a write | `{taxonomy.NO_ANSWER.code}` | {taxonomy.NO_ANSWER.recovery} |",
        f"| no answer | a read | `{taxonomy.NO_READ.code}` | {taxonomy.NO_READ.recovery} |",
    ]
    recoveries = ["", "| recovery | as a step |", "|---|---|"]
    recoveries += [f"| {recovery} | `{taxonomy.Outcome('', recovery).event.name}` |" for recovery in Recovery]
    return "\n".join([*rows, *silence, *recoveries])


def _answer(row: Row) -> str:
    first, last = row.status
    status = str(first) if first == last else f"{first}–{last}"
    if row.codes:
        status += f" with `{'`, `'.join(sorted(row.codes))}`"
    if row.retry_after:
        status += " with Retry-After"
    names = {taxonomy.ANY: "any", taxonomy.WRITES: "a write", taxonomy.CREATES: "a create"}
    request = names.get(row.requests, ", ".join(sorted(row.requests)).replace("_", " "))
    return f"| {status} | {request} | `{row.outcome.code}` | {row.outcome.recovery} |"


PARTS: dict[str, Callable[[], str]] = {"diagram": _diagram, "words": _words, "answers": _answers}


def renew(text: str) -> str:
    """``text`` with what stands between ``<!-- part -->`` and ``<!-- /part -->`` made anew.

    :raises ValueError: it lacks a part.
    """
    for name, make in PARTS.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not end:
            raise ValueError(f"no part {name}")
        text = f"{before}{begin}{make()}\n{end}{after}"
    return text


def main(file: str) -> None:
    path = Path(file)
    path.write_text(renew(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
