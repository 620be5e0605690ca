"""Where every row that was read stands now, by tenant: one table for people and one object for programs.

`run`, `status` and the demo share it. Read with the status login, which sees ids, counts and times and nothing of a patient.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from fhir_writeback_dagster.orchestration.target_standing import TargetStanding, read_standings
from fhir_writeback_dagster.store.db import connect

ENDS = ("created", "updated", "suppressed", "stale", "not_written", "denied", "quarantined", "in_review", "waiting")
_TELLING = tuple(end for end in ENDS if end not in {"created", "updated"})  # ends whose reason a person asks for


@dataclass(frozen=True, slots=True)
class Refusal:
    """Extracts of one source that were refused whole for one reason; where the latest breaks, if that has a place."""

    source: str
    version: int
    reason: str
    extracts: int
    line: int | None = None
    byte: int | None = None

    @property
    def place(self) -> str:
        return "".join(f", {what} {at}" for what, at in (("line", self.line), ("byte", self.byte)) if at is not None)


@dataclass(slots=True)
class TenantReport:
    """Counts of one tenant. ``reasons[end][reason]`` sums to ``ends[end]``; the ends sum to ``rows``."""

    rows: int = 0
    ends: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENDS, 0))
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    extracts: int = 0
    refused: int = 0
    canonical: int = 0
    candidates: int = 0
    created: int = 0
    updated: int = 0
    pending: dict[str, int] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    targets: list[TargetStanding] = field(default_factory=list, compare=False)
    """How its EHR stands; no part of what a pass, or the demo, waits to see moving: times in it always move."""

    @property
    def adds_up(self) -> bool:
        """Every row is in exactly one end."""
        return self.rows == sum(self.ends.values())

    def to_json(self) -> dict[str, object]:
        """``created`` and ``updated`` of ``resources`` count resources, those of ``ends`` rows: rows may share a resource."""
        return {
            "rows": self.rows,
            "ends": dict(self.ends),
            "reasons": {end: dict(sorted(self.reasons[end].items())) for end in ENDS if end in self.reasons},
            "stages": {"canonical": self.canonical, "candidates": self.candidates},
            "resources": {"created": self.created, "updated": self.updated},
            "extracts": {"ingested": self.extracts, "refused": self.refused},
            "refusals": [asdict(refusal) for refusal in self.refusals],
            "pending": dict(self.pending),
            "targets": [target.to_json() for target in self.targets],
        }


def read_report(dsn: str, tenants: Iterable[str] | None = None) -> dict[str, TenantReport]:
    """By tenant, sorted; only ``tenants`` if given. ``dsn`` is the status login's.

    :raises ServiceError: the database does not answer.
    """
    with connect(dsn, application="fhir_writeback_report") as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        stages = connection.execute(
            "SELECT tenant, extracts, refused, rows, canonical, candidates, created, updated FROM ops.stages()"
        ).fetchall()
        ends = connection.execute("SELECT tenant, ending, reason, rows FROM ops.row_ends()").fetchall()
        refusals = connection.execute(
            "SELECT tenant, source, version, reason, extracts, line, byte FROM ops.refusals()"
        ).fetchall()
        standings = read_standings(connection)
        pending = [
            (lane, *row)
            for lane in ("ingest", "mirror", "decide", "commit")
            for row in connection.execute("SELECT tenant, items FROM ops.pending(%s)", (lane,)).fetchall()
        ]
    reports = {
        str(tenant): TenantReport(
            rows=rows,
            extracts=extracts,
            refused=refused,
            canonical=canonical,
            candidates=candidates,
            created=created,
            updated=updated,
        )
        for tenant, extracts, refused, rows, canonical, candidates, created, updated in stages
    }
    for tenant, end, reason, rows in ends:
        report = reports[tenant]
        report.ends[end] = report.ends.get(end, 0) + rows
        of_end = report.reasons.setdefault(end, {})
        of_end[reason or "none"] = of_end.get(reason or "none", 0) + rows
    for tenant, *refusal in refusals:
        reports[tenant].refusals.append(Refusal(*refusal))
    for lane, tenant, items in pending:
        if items:
            reports[tenant].pending[lane] = items
    for standing in standings:
        if standing.tenant in reports:
            reports[standing.tenant].targets.append(standing)
    wanted = None if tenants is None else set(tenants)
    return {tenant: report for tenant, report in sorted(reports.items()) if wanted is None or tenant in wanted}


def table(reports: Mapping[str, TenantReport]) -> str:
    """For a terminal: a line a tenant, and under it why rows are not in the EHR."""
    if not reports:
        return "no tenants yet: put a file in tenants/ (docs/adding-a-tenant.md)"
    head = ("tenant", "rows", *(end.replace("_", " ") for end in ENDS))
    lines = [(tenant, str(r.rows), *(str(r.ends[end]) for end in ENDS)) for tenant, r in reports.items()]
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
    text = [_line(line, widths) for line in (head, *lines)]
    text.insert(1, "  ".join("─" * width for width in widths))
    why = [
        (tenant, end.replace("_", " "), reason, str(count))
        for tenant, r in reports.items()
        for end in _TELLING
        for reason, count in sorted(r.reasons.get(end, {}).items(), key=lambda item: (-item[1], item[0]))
    ]
    if why:
        text += ["", "why:"]
        widths = [max(len(line[column]) for line in why) for column in range(4)]
        text += [f"  {t:<{widths[0]}}  {e:<{widths[1]}}  {r:<{widths[2]}}  {n:>{widths[3]}}" for t, e, r, n in why]
    now = datetime.now(UTC)
    standings = [line for r in reports.values() for target in r.targets for line in target.lines(now)]
    text += ["", "EHRs:", *(f"  {line}" for line in standings)] if standings else []
    for tenant, r in reports.items():
        if r.refused:
            text.append(f"{tenant}: {r.refused} of {r.refused + r.extracts} extracts refused whole")
            text += [f"  {one.source}, version {one.version}: {one.reason} {one.extracts}{one.place}" for one in r.refusals]
        if r.pending:
            text.append(f"{tenant}: work waits: {', '.join(f'{lane} {items}' for lane, items in r.pending.items())}")
        if not r.adds_up:
            text.append(f"{tenant}: {r.rows} rows were read and {sum(r.ends.values())} are accounted for")
    return "\n".join(text)


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    first, *rest = (
        f"{cell:<{width}}" if not n else f"{cell:>{width}}" for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join((first, *rest)).rstrip()
