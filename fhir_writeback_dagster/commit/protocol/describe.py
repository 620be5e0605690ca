"""Makes the generated parts of `docs/protocol.md`: ``python -m fhir_writeback_dagster.commit.protocol.describe FILE``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from fhir_writeback_dagster.commit.protocol import error_classes
from fhir_writeback_dagster.commit.protocol.error_classes import ClassRule, Recovery
from fhir_writeback_dagster.commit.protocol.transitions import Action, Event, diagram


def _diagram() -> str:
    return f"```mermaid\n{diagram()}\n```"


def _words() -> str:
    lines = ["| event | what happened |", "|---|---|", *(f"| `{event.name}` | {event} |" for event in Event)]
    lines += ["", "| action | what goes with the step |", "|---|---|", *(f"| `{action.name}` | {action} |" for action in Action)]
    return "\n".join(lines)


def _answers() -> str:
    rows = ["| status | request | class | recovery |", "|---|---|---|---|", *map(_answer, error_classes.TABLE)]
    silence = [
        f"| no answer, certainly not sent | any | `{error_classes.NOT_SENT.code}` | {error_classes.NOT_SENT.recovery} |",
        f"| no answer, perhaps sent | a write | `{error_classes.NO_ANSWER.code}` | {error_classes.NO_ANSWER.recovery} |",
        f"| no answer | a read | `{error_classes.NO_READ.code}` | {error_classes.NO_READ.recovery} |",
    ]
    recoveries = ["", "| recovery | as a step |", "|---|---|"]
    recoveries += [f"| {recovery} | `{error_classes.ErrorClass('', recovery).event.name}` |" for recovery in Recovery]
    return "\n".join([*rows, *silence, *recoveries])


def _answer(row: ClassRule) -> str:
    first, last = row.status
    status = str(first) if first == last else f"{first}–{last}"
    if row.codes:
        status += f" with `{'`, `'.join(sorted(row.codes))}`"
    if row.lacks_scope:
        status += " with `insufficient_scope`"
    if row.retry_after:
        status += " with Retry-After"
    names = {error_classes.ANY: "any", error_classes.WRITES: "a write", error_classes.CREATES: "a create"}
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
