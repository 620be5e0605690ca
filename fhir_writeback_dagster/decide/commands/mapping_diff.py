"""``fhir-writeback mapping diff A B``: what another version of a mapping would make of the last records, without values."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from fhir_writeback_dagster.config import settings
from fhir_writeback_dagster.decide.commands.history import StatedRecord, last_records
from fhir_writeback_dagster.decide.mapping.versions import Mapping, load_mapping
from fhir_writeback_dagster.decide.validation.validate import validate
from fhir_writeback_dagster.errors import CandidateProblem
from fhir_writeback_dagster.orchestration.run_context import OpenRuns


@dataclass(slots=True)
class MappingDiff:
    """What version ``b`` makes of records otherwise than ``a``; ``paths``: path -> added, removed or changed -> records."""

    a: str
    b: str
    records: int = 0
    same: int = 0
    changed: int = 0
    identity_changed: int = 0
    refused: dict[str, Counter[str]] = field(default_factory=lambda: {"a": Counter(), "b": Counter()})
    invalid: dict[str, Counter[str]] = field(default_factory=lambda: {"a": Counter(), "b": Counter()})
    paths: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def to_json(self) -> dict[str, Any]:
        return {
            "a": self.a,
            "b": self.b,
            "records": self.records,
            "same": self.same,
            "changed": self.changed,
            "identity_changed": self.identity_changed,
            "refused": {side: dict(codes) for side, codes in self.refused.items()},
            "invalid": {side: dict(codes) for side, codes in self.invalid.items()},
            "paths": {path: dict(how) for path, how in sorted(self.paths.items())},
        }


def mapping_diff(a: Mapping, b: Mapping, records: Iterable[StatedRecord]) -> MappingDiff:
    """Render each of ``records`` by both.

    A record whose identity differs would be another fact: the old resource would be retracted and a new one made.
    """
    found = MappingDiff(f"{a.kind}/{a.version}", f"{b.kind}/{b.version}")
    for told in records:
        found.records += 1
        one, other = (_made(found, side, mapping, told) for side, mapping in (("a", a), ("b", b)))
        if one is None or other is None:
            found.changed += one is not other
            found.same += one is other
            continue
        if one[0] != other[0]:
            found.identity_changed += 1
        if one[1] == other[1]:
            found.same += 1
            continue
        found.changed += 1
        before, after = _leaves(one[1]), _leaves(other[1])
        for path in before.keys() | after.keys():
            if before.get(path) != after.get(path):
                found.paths[path]["added" if path not in before else "removed" if path not in after else "changed"] += 1
    return found


def _made(found: MappingDiff, side: str, mapping: Mapping, told: StatedRecord) -> tuple[tuple[str, ...], dict[str, Any]] | None:
    try:
        made = mapping.identity(told.record), mapping.render(told.record, told.refs)
    except CandidateProblem as problem:
        found.refused[side][problem.code] += 1
        return None
    found.invalid[side].update({f"{i.code} {i.path}" for i in validate(made[1]) if i.severity == "error"})
    return made


def _leaves(payload: dict[str, Any]) -> dict[str, list[Any]]:
    leaves: dict[str, list[Any]] = defaultdict(list)
    for path, value in _walk(payload, ""):
        leaves[path].append(value)
    return leaves


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _walk(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for part in value:
            yield from _walk(part, path)
    else:
        yield path, value


class _Version(click.ParamType[tuple[str, int]]):
    name = "KIND/VERSION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        kind, _, version = str(value).partition("/")
        if not version.isdecimal():
            self.fail("expected a kind and a version, such as vital_sign/2", param, ctx)
        return kind, int(version)


@click.command("diff")
@click.argument("a", type=_Version())
@click.argument("b", type=_Version())
@click.option("--last", "count", type=click.IntRange(1), default=500, show_default=True, help="How many records.")
@click.option("--tenant", help="Only this tenant's records. Default: all tenants', each by itself.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a tenant.")
@click.pass_obj
def mapping_diff_command(
    open_runs: OpenRuns, *, a: tuple[str, int], b: tuple[str, int], count: int, tenant: str | None, as_json: bool
) -> None:
    """How many of the last records version B would write otherwise than A, and where. No value is printed."""
    if a[0] != b[0]:
        raise click.UsageError("A and B are mappings of two kinds")
    folder: Path = settings.home() / "mappings" / "fhir"
    one, other = (load_mapping(folder, *version) for version in (a, b))
    with open_runs("decide", tenant) as places:
        for run in places:
            found = mapping_diff(one, other, last_records(run, a[0], count))
            click.echo(json.dumps({"tenant": run.id, **found.to_json()}) if as_json else _told(run.id, found))


def _told(tenant: str, found: MappingDiff) -> str:
    lines = [f"{tenant}: {found.a} -> {found.b}: {found.records} records, {found.same} the same, {found.changed} changed"]
    if found.identity_changed:
        lines.append(f"  {found.identity_changed} become other facts: each would be retracted and created anew")
    for what, sides in (("refused", found.refused), ("invalid", found.invalid)):
        lines += [f"  {what} by {getattr(found, side)}: {n} {code}" for side, codes in sides.items() for code, n in codes.items()]
    lines += [f"  {path}: {', '.join(f'{how} in {n}' for how, n in ways.items())}" for path, ways in sorted(found.paths.items())]
    return "\n".join(lines)
