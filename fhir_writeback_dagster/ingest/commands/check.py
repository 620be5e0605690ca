"""``fhir-writeback source check FILE --contract C``: what a contract makes of a file, without a database and without a tenant.

The reader, the contract and the normaliser are those of a run; expectations, matching and the mapping come after them.
Values go to the user's own terminal and nowhere else.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.canonical import to_json
from fhir_writeback_dagster.config.yaml_file import load_yaml
from fhir_writeback_dagster.errors import ConfigError, ExtractRefused
from fhir_writeback_dagster.ingest.contracts.concept_maps import load_concept_map
from fhir_writeback_dagster.ingest.contracts.contract import Contract
from fhir_writeback_dagster.ingest.contracts.sources import identifier_names, map_names
from fhir_writeback_dagster.ingest.normalise.columns import Maker
from fhir_writeback_dagster.ingest.normalise.records import Normalised, normalise
from fhir_writeback_dagster.ingest.readers import read as readers

#: Stands for the identifier system that a tenant gives to a name of the contract.
STAND_IN = "urn:identifier-system-of-the-tenant:"


@dataclass(frozen=True, slots=True)
class RowEnd:
    """Where the rows of one record, or one other row, end; ``record`` is the canonical record as plain data."""

    rows: tuple[int, ...]
    end: str
    reason: str | None = None
    column: str | None = None
    record: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        told = {"rows": list(self.rows), "end": self.end, "reason": self.reason, "column": self.column, "record": self.record}
        return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Checked:
    """One file, read by one contract: either ``refused`` whole, or an end for each of its rows."""

    table: str | None
    ends: tuple[RowEnd, ...] = ()
    undeclared: tuple[str, ...] = ()
    refused: ExtractRefused | None = None
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every row becomes a record, or is left out on purpose."""
        return self.refused is None and not self.counts.get("quarantined")

    def to_json(self) -> dict[str, Any]:
        refused = self.refused
        return {
            "ok": self.ok,
            "table": self.table,
            "counts": dict(self.counts),
            "undeclared_columns": list(self.undeclared),
            "refused": None
            if refused is None
            else {
                "code": refused.code,
                "message": refused.message,
                "line": refused.line,
                "byte": refused.byte,
                "fix": refused.fix,
            },
            "rows": [end.to_json() for end in self.ends],
        }


def check_file(path: Path, contract: Contract, concepts: Path, zone: str) -> Checked:
    """Read ``path`` by ``contract``.

    :param concepts: folder of the ConceptMaps that the contract names.
    :param zone: IANA zone of times without an offset, where the contract declares none.
    :raises ConfigError: no such file, or a ConceptMap that is missing or wrong.
    """
    name = contract.table_of(path.name)
    if name is None:
        patterns = ", ".join(table.files for table in contract.tables.values())
        return Checked(None, refused=ExtractRefused("no_table", f"no table takes a file of this name; they take {patterns}"))
    table = contract.tables[name]
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError("file_unreadable", reason, where=str(path), fix="name a file that can be read") from None
    maps = {one: load_concept_map(concepts, one) for one in sorted(map_names(contract))}
    systems = {one: f"{STAND_IN}{one}" for one in identifier_names(contract)}
    try:
        frame = readers.read(data, table, whole=False)
    except ExtractRefused as refused:
        return Checked(name, refused=refused)
    required = table.format == "fhir" and contract.time_zone is None
    maker = Maker(contract.source, systems, contract.time_zone or zone, maps, offset_required=required)
    made = normalise(frame, name, table, contract.actor, maker)
    ends = tuple(sorted(_ends(made), key=lambda end: end.rows))
    counts = Counter({"rows": frame.height, "records": len(made.records)})
    counts.update(other.disposition for other in made.others.values())
    undeclared = tuple(column for column in frame.columns if column not in table.columns)
    return Checked(name, ends, undeclared, None, counts)


def _ends(made: Normalised) -> Iterator[RowEnd]:
    for record in made.records:
        yield RowEnd(tuple(row + 1 for row in record.rows), "record", record=to_json(record.record))
    for row, other in made.others.items():
        yield RowEnd((row + 1,), other.disposition, other.reason, other.column)


def concepts_beside(contract: Path) -> Path:
    """The ConceptMaps of the project that a contract lies in: ``mappings/concepts`` for ``mappings/sources/x/1.yaml``."""
    return contract.resolve().parent.parent.parent / "concepts"


@click.command("check")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--contract", "contract_file", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The YAML file."
)
@click.option("--concepts", type=click.Path(path_type=Path, file_okay=False), help="Default: beside the contract's sources.")
@click.option("--time-zone", default="UTC", show_default=True, help="Of times without an offset, where the contract says none.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def check_command(file: Path, contract_file: Path, *, concepts: Path | None, time_zone: str, as_json: bool) -> None:
    """Show what a contract makes of FILE: a canonical record or a reason for every row, and how many.

    Needs no database and no tenant, and changes nothing. Values of patients appear on this terminal. Exit code 1 if the file is
    refused or a row would be quarantined.
    """
    contract = load_yaml(contract_file, Contract)
    checked = check_file(file, contract, concepts or concepts_beside(contract_file), time_zone)
    if as_json:
        click.echo(canonicaljson.encode(checked.to_json()).decode())
    else:
        for line in _lines(checked):
            click.echo(line)
    sys.exit(0 if checked.ok else 1)


def _lines(checked: Checked) -> Iterator[str]:
    if checked.refused is not None:
        refused = checked.refused
        place = f" at line {refused.line}" if refused.line is not None else f" at byte {refused.byte}" if refused.byte else ""
        yield f"refused{place}: {refused}"
        return
    for end in checked.ends:
        rows = ",".join(map(str, end.rows))
        if end.record is not None:
            yield f"row {rows}: {end.record['kind']} {canonicaljson.encode(end.record).decode()}"
        else:
            yield f"row {rows}: {end.end} {end.reason}{f' ({end.column})' if end.column else ''}"
    counts = checked.counts
    yield (
        f"{counts['rows']} rows by table {checked.table}: {counts['records']} records, "
        f"{counts.get('not_written', 0)} rows not written, {counts.get('quarantined', 0)} quarantined"
    )
    for reason, number in Counter(end.reason for end in checked.ends if end.end == "quarantined").most_common():
        yield f"  {reason}: {number}"
    if checked.undeclared:
        yield f"columns that the contract does not declare: {', '.join(checked.undeclared)}"
