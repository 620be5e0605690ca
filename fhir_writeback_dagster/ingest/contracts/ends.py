"""Columns of a table that hold days and times, and those of them that say when something ended.

An end that is still to come has not happened: what a contract makes of it (``abatement``, ``clinical_status: resolved``) would be
written before it is true.
"""

from __future__ import annotations

from collections.abc import Iterator

from fhir_writeback_dagster.ingest.contracts.contract import Table
from fhir_writeback_dagster.ingest.contracts.fields import DateFrom, From, TextFrom
from fhir_writeback_dagster.ingest.contracts.row_rules import RowRule

#: Fields that say when something ended, of the kinds that have one.
_ENDS = {"condition": "abatement", "medication_request": "ended", "allergy": "ended", "procedure": "end"}
_OVER = {"resolved", "inactive", "remission", "completed", "stopped", "cancelled"}


def date_columns(table: Table) -> dict[str, DateFrom]:
    """Every column that a date is read from, and every column of :func:`end_columns`, with how it is read."""
    found = {column: DateFrom(column=column) for column in end_columns(table)}
    specs = [table.as_of, *(table.patient.demographics().values() if table.patient else ()), *(s for _, _, s in _specs(table))]
    return found | {spec.column: spec for spec in specs if isinstance(spec, DateFrom)}


def end_columns(table: Table) -> set[str]:
    """Columns that the contract calls ends, those of which an end is made, and those whose presence makes a status say that it
    is over."""
    found = set(table.ends)
    for rule, name, spec in _specs(table):
        if rule.kind not in _ENDS:
            continue
        if name == _ENDS[rule.kind] and isinstance(spec, DateFrom):
            found.add(spec.column)
        if name in {"status", "clinical_status"} and isinstance(spec, TextFrom) and _OVER & {spec.constant, *spec.words}:
            found.update(column for column, wanted in spec.when.items() if wanted == "present")
    return found


def _specs(table: Table) -> Iterator[tuple[RowRule, str, From]]:
    for rule in table.rows:
        if isinstance(rule, RowRule):
            for name, alternatives in rule.fields.specs().items():
                for spec in alternatives:
                    yield rule, name, spec
