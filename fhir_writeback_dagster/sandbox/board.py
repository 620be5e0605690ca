"""How far each tenant is, read from the database as `status` reads it: counts and reasons, across tenants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from fhir_writeback_dagster.sandbox.truth import ENDS, End
from fhir_writeback_dagster.store.db import connect

_LANES = ("ingest", "decide", "commit")


@dataclass(slots=True)
class Standing:
    """One tenant: rows by end and reason, and what waits in each lane."""

    extracts: int = 0
    refused: int = 0
    rows: int = 0
    canonical: int = 0
    candidates: int = 0
    created: int = 0
    updated: int = 0
    ends: dict[End, int] = field(default_factory=lambda: dict.fromkeys(ENDS, 0))
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The parts of issue 3's object that come from the database."""
        return {
            "rows": self.rows,
            "ends": self.ends,
            "reasons": self.reasons,
            "stages": {"canonical": self.canonical, "candidates": self.candidates},
        }


class Board:
    """``with Board(dsn) as board`` then ``board.read()``; ``dsn`` is the login `status`."""

    def __init__(self, dsn: str) -> None:
        self._connection = connect(dsn, application="fhir_writeback_demo")

    def read(self) -> dict[str, Standing]:
        """Every tenant's standing, from one snapshot of the database."""
        with self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            found = {
                tenant: Standing(*counts)
                for tenant, *counts in self._connection.execute(
                    "SELECT tenant, extracts, refused, rows, canonical, candidates, created, updated FROM ops.stages()"
                )
            }
            for tenant, end, reason, rows in self._connection.execute("SELECT tenant, ending, reason, rows FROM ops.row_ends()"):
                standing = found[tenant]
                standing.ends[end] = standing.ends.get(end, 0) + rows
                if reason:
                    standing.reasons.setdefault(end, {})[reason] = rows
            for lane in _LANES:
                for tenant, items in self._connection.execute("SELECT tenant, items FROM ops.pending(%s)", (lane,)):
                    found[tenant].pending[lane] = items
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def table(tenants: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the result's tenants for people: a line an end, with the commonest reasons."""
    names = list(tenants)
    lines = ["".join(f"{word:<26}" if not n else f"{word:>12}" for n, word in enumerate(["rows", *names]))]

    def line(label: str, *path: str) -> None:
        values = []
        for name in names:
            value: Any = tenants[name]
            for step in path:
                value = value.get(step, 0)
            values.append(f"{value:>12}")
        lines.append(f"{label:<26}{''.join(values)}")

    line("  read", "rows")
    for end in ENDS:
        line(f"  {end}", "ends", end)
        for reason in sorted({r for t in tenants.values() for r in t["reasons"].get(end, {})}):
            line(f"      {reason}", "reasons", end, reason)
    lines.append("resources")
    for label, key in (("created", "created"), ("updated", "updated"), ("found in the EHR", "ehr_found")):
        line(f"  {label}", "resources", key)
    line("  twice in the EHR", "resources", "ehr_duplicates")
    line("  by the second delivery", "second_delivery_writes")
    return "\n".join(lines)
