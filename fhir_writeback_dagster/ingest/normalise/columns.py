"""Column texts → canonical values, a column at a time; each distinct text is read once.

A value that cannot be read is a :class:`Problem` in its place: it is the row's, the other rows go on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import polars as pl
from pydantic import ValidationError

from fhir_writeback_dagster.canonical import Coding, Comparator, Component, Identifier, PatientRef, Reaction
from fhir_writeback_dagster.ingest.contracts.concept_maps import ConceptMap
from fhir_writeback_dagster.ingest.contracts.fields import (
    LISTS,
    ComponentFrom,
    ConceptFrom,
    ContentFrom,
    DateFrom,
    From,
    IdentifierFrom,
    LabelFrom,
    QuantityFrom,
    ReactionFrom,
    TextFrom,
    comparators_of,
    word_adapter,
)
from fhir_writeback_dagster.ingest.contracts.row_rules import PatientFrom, holds
from fhir_writeback_dagster.ingest.normalise import dates
from fhir_writeback_dagster.ingest.normalise.conversions import concept, content, put_together, quantity
from fhir_writeback_dagster.ingest.problems import Problem, defect
from fhir_writeback_dagster.orchestration.run_context import utc_now

K = TypeVar("K", bound=Hashable)
Texts = Sequence[str | None]


def each(keys: Sequence[K], make: Callable[[K], Any], column: str) -> list[Any]:
    """``make`` of each key, called once for equal ones; an exception is a :class:`Problem` of ``column`` in its place."""
    made: dict[K, Any] = {}
    for key in dict.fromkeys(keys):
        try:
            made[key] = make(key)
        except Exception as error:  # noqa: BLE001 - one row's value never ends the other rows
            made[key] = defect(error, column)
    return [made[key] for key in keys]


@dataclass(frozen=True, slots=True)
class Maker:
    """Reads the columns of one table for one tenant.

    :param systems: identifier system of each name, from the tenant; :func:`~.sources.source_of` has seen that all are there.
    :param zone: of times without an offset, where the contract's field says none.
    :param now: when the rows are read (UTC): an end that is still to come has not happened.
    """

    source: str
    systems: Mapping[str, str]
    zone: str
    concept_maps: Mapping[str, ConceptMap]
    now: datetime = field(default_factory=utc_now)
    _makers: dict[type[From], Callable[[Any, pl.DataFrame], list[Any]]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        makers = {
            DateFrom: self.dates,
            ConceptFrom: self.concepts,
            IdentifierFrom: self.identifiers,
            ContentFrom: self.contents,
            ReactionFrom: self.reactions,
            LabelFrom: self.labels,
        }
        object.__setattr__(self, "_makers", makers)

    def field(self, kind: str, name: str, alternatives: Sequence[From], frame: pl.DataFrame) -> list[Any]:
        """A value, None (not said) or a :class:`Problem` for each row of ``frame``."""
        if name in LISTS:
            return self._members(kind, name, alternatives, frame)
        values: list[Any] = [None] * frame.height
        free = pl.repeat(value=True, n=frame.height, eager=True)
        for spec in alternatives:
            takes = free if not spec.when else free & frame.select(holds(spec.when).alias("takes")).to_series()
            made = self._one(kind, name, spec, frame.filter(takes))
            for position, value in zip(takes.arg_true(), made, strict=True):
                values[position] = value
            free &= ~takes
        return values

    def _one(self, kind: str, name: str, spec: From, frame: pl.DataFrame) -> list[Any]:
        if isinstance(spec, TextFrom):
            return self.words(kind, name, spec, frame)
        if isinstance(spec, QuantityFrom):
            return self.quantities(spec, frame, comparators_of(kind, name, spec))
        if isinstance(spec, ComponentFrom):
            return self.components(spec, frame, kind)
        return self._makers[type(spec)](spec, frame)

    def _members(self, kind: str, name: str, alternatives: Sequence[From], frame: pl.DataFrame) -> list[Any]:
        members: list[list[Any]] = [[] for _ in range(frame.height)]
        for spec in alternatives:
            takes = frame.select(holds(spec.when).alias("takes")).to_series() if spec.when else None
            part = frame if takes is None else frame.filter(takes)
            positions = range(frame.height) if takes is None else takes.arg_true()
            for position, value in zip(positions, self._one(kind, name, spec, part), strict=True):
                if value is not None:
                    members[position].append(value)
        return [next((m for m in found if isinstance(m, Problem)), tuple(found)) for found in members]

    def words(self, kind: str, name: str, spec: TextFrom, frame: pl.DataFrame) -> list[Any]:
        adapter, many = word_adapter(kind, name)

        def read(text: str | None) -> Any:
            if text is not None and spec.values is not None:
                text = spec.values.get(text)
                if text is None:
                    return Problem("unknown_value", spec.column or name)
            if text is None:
                return None
            try:
                value = adapter.validate_python(text)
            except ValidationError:
                return Problem("unknown_value", spec.column or name)
            return (value,) if many else value

        if spec.column is None:
            return [read(spec.constant)] * frame.height
        return each(_texts(frame, spec.column), read, spec.column)

    def texts(self, spec: TextFrom, frame: pl.DataFrame) -> list[Any]:
        """Plain texts, translated where the contract says how."""
        if spec.column is None:
            return [spec.constant] * frame.height
        texts = _texts(frame, spec.column)
        if spec.values is None:
            return list(texts)
        values, unknown = spec.values, Problem("unknown_value", spec.column)
        return [None if text is None else values.get(text, unknown) for text in texts]

    def dates(self, spec: DateFrom, frame: pl.DataFrame) -> list[Any]:
        texts = _texts(frame, spec.column)
        if spec.time_column:
            times = _texts(frame, spec.time_column)
            texts = [day if day is None or time is None else f"{day} {time}" for day, time in zip(texts, times, strict=True)]
        read = dates.read({t: None for t in texts if t is not None}, spec, spec.time_zone or self.zone)
        made: dict[str | None, Any] = {
            text: Problem(parsed.problem, spec.column) if parsed.problem else parsed.value for text, parsed in read.items()
        }
        return [made.get(text) for text in texts]

    def quantities(self, spec: QuantityFrom, frame: pl.DataFrame, signs: Mapping[str, Comparator]) -> list[Any]:
        values = _texts(frame, spec.column)
        if spec.extract is not None:
            part = pl.col(spec.column).str.extract(f"^(?:{spec.extract})$", 1)
            parts = frame.select(part.fill_null("")).to_series()  # a text without that part is no number
            values = [None if whole is None else found for whole, found in zip(values, parts, strict=True)]
        named = _texts(frame, spec.unit_column) if spec.unit_column else [spec.unit] * frame.height
        compared = _texts(frame, spec.comparator_column) if spec.comparator_column else [None] * frame.height
        return each(list(zip(values, named, compared, strict=True)), lambda key: quantity(spec, signs, *key), spec.column)

    def concepts(self, spec: ConceptFrom, frame: pl.DataFrame) -> list[Any]:
        columns = [
            _texts(frame, column) if column else [None] * frame.height
            for column in (spec.column, spec.system_column, spec.display, spec.text)
        ]
        concept_map = self.concept_maps[spec.concept_map] if spec.concept_map else None
        return each(list(zip(*columns, strict=True)), lambda key: concept(spec, concept_map, *key), spec.column or "code")

    def identifiers(self, spec: IdentifierFrom, frame: pl.DataFrame) -> list[Any]:
        if spec.system_column:
            systems = _texts(frame, spec.system_column)
            pairs = zip(systems, _texts(frame, spec.column), strict=True)
            made = lambda pair: Identifier(system=pair[0], value=pair[1]) if all(pair) else None  # noqa: E731
            return each(list(pairs), made, spec.column)
        system = spec.system or self.systems[spec.name or ""]
        made = lambda text: None if text is None else Identifier(system=system, value=text)  # noqa: E731
        return each(_texts(frame, spec.column), made, spec.column)

    def contents(self, spec: ContentFrom, frame: pl.DataFrame) -> list[Any]:
        return each(_texts(frame, spec.column), lambda text: None if text is None else content(spec, text), spec.column)

    def reactions(self, spec: ReactionFrom, frame: pl.DataFrame) -> list[Any]:
        manifestations = self.concepts(spec.manifestation, frame)
        severities = self.texts(spec.severity, frame) if spec.severity else [None] * frame.height
        return [
            put_together(Reaction, manifestation=concept, severity=severity) if concept is not None else None
            for concept, severity in zip(manifestations, severities, strict=True)
        ]

    def labels(self, spec: LabelFrom, frame: pl.DataFrame) -> list[Any]:
        if spec.column is None:
            return [Coding(system=spec.system, code=spec.code or "")] * frame.height
        values, unknown = spec.values, Problem("unknown_value", spec.column)

        def read(text: str | None) -> Any:
            if text is not None and values is not None:
                if text not in values:
                    return unknown
                text = values[text]
            return None if text is None else Coding(system=spec.system, code=text)

        return each(_texts(frame, spec.column), read, spec.column)

    def components(self, spec: ComponentFrom, frame: pl.DataFrame, kind: str) -> list[Any]:
        nothing = [None] * frame.height
        codes = self.concepts(spec.code, frame)
        measured = spec.quantity
        quantities = self.quantities(measured, frame, comparators_of(kind, "quantity", measured)) if measured else nothing
        concepts = self.concepts(spec.concept, frame) if spec.concept else nothing
        texts = self.texts(spec.text, frame) if spec.text else nothing
        return [
            None
            if quantity is None and concept is None and text is None
            else put_together(Component, code=code, quantity=quantity, concept=concept, text=text)
            for code, quantity, concept, text in zip(codes, quantities, concepts, texts, strict=True)
        ]

    def patients(self, spec: PatientFrom, frame: pl.DataFrame) -> list[Any]:
        """A :class:`PatientRef` for each row; without any identifier, ``no_patient``."""
        identifiers = [self.identifiers(one, frame) for one in spec.identifiers]
        said = spec.demographics()
        columns = [self.dates(one, frame) if isinstance(one, DateFrom) else self.texts(one, frame) for one in said.values()]
        absent = Problem("no_patient", spec.identifiers[0].column)
        count = len(identifiers)

        def make(key: tuple[Any, ...]) -> Any:
            found = tuple(one for one in key[:count] if one is not None)
            if not found:
                return absent
            return put_together(PatientRef, identifiers=found, **dict(zip(said, key[count:], strict=True)))

        return each(list(zip(*identifiers, *columns, strict=True)), make, absent.column)

    def encounters(self, specs: Sequence[IdentifierFrom], frame: pl.DataFrame) -> list[tuple[Identifier, ...]]:
        if not specs:
            return [()] * frame.height
        columns = [self.identifiers(spec, frame) for spec in specs]
        return [tuple(one for one in row if one is not None) for row in zip(*columns, strict=True)]


def _texts(frame: pl.DataFrame, column: str) -> list[str | None]:
    return frame.get_column(column).to_list()
