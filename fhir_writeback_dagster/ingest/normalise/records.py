"""Rows of one table → canonical records, with every row at exactly one end: a record, not written, or quarantined.

A row with a problem is quarantined alone; where it belongs to a group, the group's other rows go with it
(``group_incomplete``), or half a blood pressure would be written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl
from pydantic import ValidationError

from fhir_writeback_dagster.canonical import Actor, CanonicalRecord, Coding, Component, Concept, Repair
from fhir_writeback_dagster.ingest.contracts.contract import Table
from fhir_writeback_dagster.ingest.contracts.fields import record_model
from fhir_writeback_dagster.ingest.contracts.reserved_columns import BROKEN
from fhir_writeback_dagster.ingest.contracts.row_rules import ActorFrom, Group, NotWritten, RowRule, holds
from fhir_writeback_dagster.ingest.normalise.columns import Maker, each
from fhir_writeback_dagster.ingest.normalise.conversions import Content, Repaired, unwrapped
from fhir_writeback_dagster.ingest.normalise.dates import instant
from fhir_writeback_dagster.ingest.normalise.texts import read_texts
from fhir_writeback_dagster.ingest.problems import Problem, defect
from fhir_writeback_dagster.ingest.readers.fhir import contradicting, labels_of, unread

_ROW = "\x00row"  # a name that no column has
_VALUES = ("quantity", "concept", "text", "components")
_OBSERVATIONS = {"vital_sign", "lab_result", "observation"}


@dataclass(slots=True)
class Record:
    """A canonical record and the rows (positions in the table, from 0) that it is made of."""

    record: CanonicalRecord
    identity: tuple[str, ...]
    as_of: datetime | None
    rows: list[int]
    family: tuple[str, ...] = ()
    """The identity without what tells apart the rows that agree in it; empty where the contract names no discriminator."""
    discriminator_values: tuple[str | None, ...] = ()


class NotARecord(NamedTuple):
    """Why a row became no record: ``column`` is None where no one column is at fault."""

    disposition: str
    reason: str
    column: str | None = None


@dataclass(slots=True)
class Normalised:
    """``others`` holds every row that is in no record."""

    records: list[Record] = field(default_factory=list)
    others: dict[int, NotARecord] = field(default_factory=dict)
    defects: dict[str, None] = field(default_factory=dict)
    """Of rows that ended by a defect of ours: class and place of the exception, safe to show."""


def normalise(frame: pl.DataFrame, name: str, table: Table, actor: ActorFrom, maker: Maker) -> Normalised:
    """Read all rows of ``frame``, text as delivered, by the rules of ``table`` (called ``name`` in its contract)."""
    delivered = frame
    frame = read_texts(delivered, table, maker.zone, maker.now).with_row_index(_ROW)
    made = Normalised()
    labels = labels_of(delivered) if table.format == "fhir" else []
    contradicted = contradicting(delivered) if table.format == "fhir" else {}
    free = pl.repeat(value=True, n=frame.height, eager=True)
    if BROKEN in delivered.columns:
        free = delivered[BROKEN].is_null()
        lines = enumerate(delivered[BROKEN])
        made.others.update((row, NotARecord("quarantined", reason)) for row, reason in lines if reason is not None)
    for rule in table.rows:
        takes = free & frame.select(holds(rule.when).alias("takes")).to_series() if rule.when else free
        free = free & ~takes
        part = frame.filter(takes)
        if part.height and table.format == "fhir" and isinstance(rule, RowRule):
            for row in set(part[_ROW]) & contradicted.keys():
                made.others[row] = NotARecord("quarantined", *contradicted[row])
            part = part.filter(~pl.col(_ROW).is_in(list(contradicted)))
            lost = unread(delivered, table, rule)
            for row in set(part[_ROW]) & lost.keys():
                made.others[row] = NotARecord("quarantined", "unknown_element", lost[row])
            part = part.filter(~pl.col(_ROW).is_in(list(lost)))
        if part.height == 0:
            continue
        if isinstance(rule, NotWritten):
            end = NotARecord("not_written", rule.not_written)
            made.others.update(dict.fromkeys(part[_ROW].to_list(), end))
        else:
            _Rule(name, table, rule, part, made, labels).make(actor, maker)
    made.others.update(dict.fromkeys(free.arg_true().to_list(), NotARecord("quarantined", "no_rule")))
    made.records.sort(key=lambda record: record.rows[0])
    return made


class _Member(NamedTuple):
    """A row of a group: what it measures, and what it says besides, which all rows of the group must."""

    row: int
    code: tuple[str, ...]
    component: Component
    head: dict[str, Any]
    as_of: datetime | None
    labels: tuple[Coding, ...]
    repairs: tuple[Repair, ...]


@dataclass(slots=True)
class _Rule:
    """The rows that one rule takes."""

    name: str
    table: Table
    rule: RowRule
    frame: pl.DataFrame
    made: Normalised
    labels: Sequence[Any] = ()
    """Of each row of the table, where its format carries labels: beside those that the contract names."""
    needed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        specs = self.rule.fields.specs()
        model = record_model(self.rule.kind).model_fields
        self.needed = tuple(name for name, info in model.items() if info.is_required() and name in specs)

    def make(self, actor: ActorFrom, maker: Maker) -> None:
        rows = self.frame[_ROW].to_list()
        said = list(self._said(actor, maker))
        orders = self._orders(maker)
        if self.rule.group:
            self._group(self.rule.group, rows, said, orders)
            return
        keys = [tuple(text or "" for text in key) for key in self.frame.select(self.table.identity).iter_rows()]
        apart: list[tuple[str | None, ...]] = [()] * len(keys)
        if self.table.discriminator:
            apart = list(self.frame.select(self.table.discriminator).iter_rows())
        marks = self._marks(keys, apart)
        for row, fields, as_of, key, text, mark in zip(rows, said, orders, keys, apart, marks, strict=True):
            if mark:
                fields["discriminator"] = mark
            problem = _first_problem((*fields.values(), as_of)) or self._missing(fields)
            if problem is None and not any(key):
                problem = Problem("no_identity", self.table.identity[0])
            record = problem or self._record(fields)
            if isinstance(record, Problem):
                self._quarantine(row, record)
            else:
                identity = (self.name, *key, *([mark] if mark else ()))
                family = (self.name, *key) if self.table.discriminator else ()
                self.made.records.append(Record(record, identity, as_of, [row], family, text))

    def _said(self, actor: ActorFrom, maker: Maker) -> Iterator[dict[str, Any]]:
        """Field → value of each row; a value may be a :class:`Problem`."""
        if self.table.patient is None:  # the contract's own check forbids it
            raise AssertionError
        columns: dict[str, Sequence[Any]] = {
            "patient": maker.patients(self.table.patient, self.frame),
            "encounter": maker.encounters(self.table.encounter, self.frame),
            "actor": self._actors(actor, maker),
        }
        for field_name, alternatives in self.rule.fields.specs().items():
            columns[field_name] = maker.field(self.rule.kind, field_name, alternatives, self.frame, columns.get("code"))
        if self.labels:
            given = [self.labels[row] for row in self.frame[_ROW]]
            columns["labels"] = [_both(*pair) for pair in zip(given, columns.get("labels", [()] * len(given)), strict=True)]
        names = tuple(columns)
        for values in zip(*columns.values(), strict=True):
            fields = {name: value for name, value in zip(names, values, strict=True) if value is not None and value != ()}
            if repairs := tuple(
                Repair(field=name, rule=rule, was=was, now=now)
                for name, value in fields.items()
                if isinstance(value, Repaired)
                for rule, was, now in value.notes
            ):
                plain, _ = unwrapped(fields.values())
                fields = dict(zip(fields, plain, strict=True)) | {"repairs": repairs}
            content = fields.get("data")
            if isinstance(content, Content):
                said = fields.get("content_type", content.content_type)
                known = said if said == content.content_type else Problem("content_type_differs", _column_of(self.rule, "data"))
                fields |= {"data": content.data, "sha256": content.sha256, "content_type": known}
            yield fields

    def _actors(self, actor: ActorFrom, maker: Maker) -> list[Actor]:
        models: Sequence[str | None] = [actor.model] * self.frame.height
        if actor.model_column:
            models = self.frame[actor.model_column].to_list()
        return each(
            models, lambda model: Actor(type=actor.type, id=actor.id or maker.source, model=model), actor.model_column or ""
        )

    def _orders(self, maker: Maker) -> list[Any]:
        """The source's own order of versions: an instant, None or a :class:`Problem` for each row."""
        spec = self.table.as_of
        if spec is None:
            return [None] * self.frame.height
        zone = spec.time_zone or maker.zone
        return each(
            maker.dates(spec, self.frame), lambda text: instant(text, zone) if isinstance(text, str) else text, spec.column
        )

    def _marks(self, keys: list[tuple[str, ...]], texts: list[tuple[str | None, ...]]) -> list[str | None]:
        """What tells apart rows that agree in identity: None for the first in order of the discriminator, then 2, 3, …

        The number and not the text, so that a row whose discriminator fills up later (a STOP) stays the same fact as long
        as the order holds; what is not said sorts last for the same reason.
        """
        if not self.table.discriminator:
            return [None] * len(keys)
        found: dict[tuple[str, ...], set[tuple[str | None, ...]]] = {}
        for key, text in zip(keys, texts, strict=True):
            found.setdefault(key, set()).add(text)
        ranks = {
            (key, text): str(number) if number > 1 else None
            for key, several in found.items()
            for number, text in enumerate(sorted(several, key=lambda t: [(part is None, part or "") for part in t]), 1)
        }
        return [ranks[key, text] for key, text in zip(keys, texts, strict=True)]

    def _missing(self, fields: dict[str, Any]) -> Problem | None:
        """What the kind needs and the row does not say."""
        for name in self.needed:
            if name not in fields:
                return Problem("missing_value", _column_of(self.rule, name))
        if self.rule.kind in _OBSERVATIONS and not any(name in fields for name in _VALUES):
            specs = self.rule.fields.specs()
            return Problem("missing_value", _column_of(self.rule, next((n for n in _VALUES if n in specs), "code")))
        return None

    def _record(self, fields: dict[str, Any]) -> Any:
        try:
            return record_model(self.rule.kind)(**fields)
        except ValidationError as error:
            place = error.errors(include_url=False, include_context=False, include_input=False)[0]["loc"]
            return Problem("bad_value", _column_of(self.rule, str(place[0])))
        except Exception as error:  # noqa: BLE001 - one row never ends the other rows
            return defect(error, "")

    def _quarantine(self, row: int, problem: Problem) -> None:
        self.made.others[row] = NotARecord("quarantined", problem.code, problem.column or None)
        if problem.detail:
            self.made.defects[problem.detail] = None

    def _group(self, group: Group, rows: list[int], said: list[dict[str, Any]], orders: list[Any]) -> None:
        keys = [tuple(text or "" for text in key) for key in self.frame.select(group.by).iter_rows()]
        members: dict[tuple[str, ...], list[_Member]] = {}
        broken: set[tuple[str, ...]] = set()
        for row, fields, as_of, key in zip(rows, said, orders, keys, strict=True):
            problem = _first_problem((*fields.values(), as_of)) or self._missing(fields)
            if problem:
                broken.add(key)
                self._quarantine(row, problem)
                continue
            parts = {name: fields.pop(name) for name in ("code", "quantity", "concept", "text") if name in fields}
            labels, repairs = fields.pop("labels", ()), fields.pop("repairs", ())
            members.setdefault(key, []).append(
                _Member(row, _code(parts["code"]), Component(**parts), fields, as_of, labels, repairs)
            )
        for key, found in members.items():
            reason = "group_incomplete" if key in broken else _disagreement(found)
            record = Problem(reason, group.by[0]) if reason else self._panel(group, found)
            if isinstance(record, Problem):
                for member in found:
                    self.made.others[member.row] = NotARecord("quarantined", record.code)
                continue
            as_of = max((member.as_of for member in found if member.as_of), default=None)
            identity = (self.name, group.code.code, *key)
            self.made.records.append(Record(record, identity, as_of, [member.row for member in found]))

    def _panel(self, group: Group, found: list[_Member]) -> Any:
        coding = Coding(system=group.code.system, code=group.code.code, display=group.code.display)
        components = {member.code: member.component for member in found}
        ordered = tuple(components[code] for code in sorted(components))
        labels = tuple(dict.fromkeys(label for member in found for label in member.labels))
        repairs = tuple(dict.fromkeys(repair for member in found for repair in member.repairs))
        head = found[0].head | ({"labels": labels} if labels else {})  # as sensitive as the most sensitive of its rows
        head |= {"repairs": repairs} if repairs else {}
        return self._record({**head, "code": Concept(codings=(coding,)), "components": ordered})


def _disagreement(found: list[_Member]) -> str | None:
    """Copies of a row are fine; anything else that two rows of a group say differently is not."""
    if len(found) == 1:
        return None
    if any(member.head != found[0].head for member in found):
        return "group_disagrees"
    seen: dict[tuple[str, ...], Component] = {}
    for member in found:
        if seen.setdefault(member.code, member.component) != member.component:
            return "ambiguous_group"
    return None


def _both(one: Any, other: Any) -> Any:
    """Two lists of labels as one; a :class:`Problem` in either stays."""
    return next((part for part in (one, other) if isinstance(part, Problem)), None) or (*one, *other)


def _code(concept: Concept) -> tuple[str, ...]:
    return tuple(f"{coding.system}|{coding.code}" for coding in concept.codings) or (concept.text or "",)


def _first_problem(values: Sequence[Any]) -> Problem | None:
    for value in values:
        if isinstance(value, Problem):
            return value
    return None


def _column_of(rule: RowRule, name: str) -> str:
    """The column that a field is made from; the field's own name where it is none."""
    alternatives = getattr(rule.fields, name, ())
    return next((column for spec in alternatives for column in spec.columns()), name)
