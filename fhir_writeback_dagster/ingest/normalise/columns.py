"""Column texts → canonical values, a column at a time; each distinct text is read once.

A value that cannot be read is a :class:`Problem` in its place: it is the row's, the other rows go on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import polars as pl
from pydantic import ValidationError

from fhir_writeback_dagster.canonical import Coding, Comparator, Component, Concept, PatientRef, Reaction
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
from fhir_writeback_dagster.ingest.normalise.conversions import (
    Measured,
    Repaired,
    concept,
    content,
    identifier,
    put_together,
    quantity,
    unwrapped,
)
from fhir_writeback_dagster.ingest.problems import Problem, defect
from fhir_writeback_dagster.orchestration.run_context import utc_now
from fhir_writeback_dagster.rules.fhir.code_systems import LOINC
from fhir_writeback_dagster.rules.fhir.loinc import LoincTerm, loinc_terms

_OFFSET = re.compile(r"(?:z|utc|[+-]\d{2}(?::?\d{2})?)$", re.IGNORECASE)

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
    :param choices: the tenant's words for what a source cannot say.
    :param offset_required: a time without an offset is ``no_offset`` where neither field nor contract names a zone.
    """

    source: str
    systems: Mapping[str, str]
    zone: str
    concept_maps: Mapping[str, ConceptMap]
    now: datetime = field(default_factory=utc_now)
    choices: Mapping[str, str] = field(default_factory=dict)
    offset_required: bool = False
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

    def field(
        self, kind: str, name: str, alternatives: Sequence[From], frame: pl.DataFrame, codes: Sequence[Any] | None = None
    ) -> list[Any]:
        """A value, None (not said), a :class:`Repaired` value or a :class:`Problem` for each row of ``frame``.

        :param codes: what each row measures, by which a quantity's unit is read.
        """
        if name in LISTS:
            return self._members(kind, name, alternatives, frame)
        values: list[Any] = [None] * frame.height
        free = pl.repeat(value=True, n=frame.height, eager=True)
        for spec in alternatives:
            takes = free if not spec.when else free & frame.select(holds(spec.when).alias("takes")).to_series()
            positions = takes.arg_true()
            if isinstance(spec, QuantityFrom):
                terms = [_term(codes[position]) if codes else None for position in positions]
                made = self.quantities(spec, frame.filter(takes), comparators_of(kind, name, spec), terms)
            else:
                made = self._one(kind, name, spec, frame.filter(takes))
            for position, value in zip(positions, made, strict=True):
                values[position] = value
            free &= ~takes
        return values

    def _one(self, kind: str, name: str, spec: From, frame: pl.DataFrame) -> list[Any]:
        if isinstance(spec, TextFrom):
            return self.words(kind, name, spec, frame)
        if isinstance(spec, ComponentFrom):
            return self.components(spec, frame, kind)
        return self._makers[type(spec)](spec, frame)

    def _members(self, kind: str, name: str, alternatives: Sequence[From], frame: pl.DataFrame) -> list[Any]:
        members: list[list[Any]] = [[] for _ in range(frame.height)]
        for spec in alternatives:
            takes = frame.select(holds(spec.when).alias("takes")).to_series() if spec.when else None
            part = frame if takes is None else frame.filter(takes)
            positions = range(frame.height) if takes is None else takes.arg_true()
            if not len(positions):
                continue
            for position, value in zip(positions, self._one(kind, name, spec, part), strict=True):
                if value is not None:
                    members[position].append(value)
        return [_joined(found) for found in members]

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
            return [read(self._word(spec))] * frame.height
        return each(_texts(frame, spec.column), read, spec.column)

    def _word(self, spec: TextFrom) -> str | None:
        """What holds for every row: a constant, or what the tenant chose."""
        return spec.constant if spec.choice is None else self.choices.get(spec.choice, spec.words[0])

    def texts(self, spec: TextFrom, frame: pl.DataFrame) -> list[Any]:
        """Plain texts, translated where the contract says how."""
        if spec.column is None:
            return [self._word(spec)] * frame.height
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
        if self.offset_required and spec.time_zone is None:
            unsaid = Problem("no_offset", spec.column)
            made |= {text: unsaid for text, parsed in read.items() if "T" in (parsed.value or "") and not _OFFSET.search(text)}
        return [made.get(text) for text in texts]

    def quantities(
        self, spec: QuantityFrom, frame: pl.DataFrame, signs: Mapping[str, Comparator], terms: Sequence[LoincTerm | None]
    ) -> list[Any]:
        values = _texts(frame, spec.column)
        if spec.extract is not None:
            part = pl.col(spec.column).str.extract(f"^(?:{spec.extract})$", 1)
            parts = frame.select(part.fill_null("")).to_series()  # a text without that part is no number
            values = [None if whole is None else found for whole, found in zip(values, parts, strict=True)]
        named = _texts(frame, spec.unit_column) if spec.unit_column else [spec.unit] * frame.height
        compared = _texts(frame, spec.comparator_column) if spec.comparator_column else [None] * frame.height
        said = [Measured(*row) for row in zip(values, named, compared, terms, strict=True)]
        return each(said, lambda one: quantity(spec, signs, one), spec.column)

    def concepts(self, spec: ConceptFrom, frame: pl.DataFrame) -> list[Any]:
        columns = [
            _texts(frame, column) if column else [None] * frame.height
            for column in (spec.column, spec.system_column, spec.display, spec.text)
        ]
        concept_map = self.concept_maps[spec.concept_map] if spec.concept_map else None
        return each(list(zip(*columns, strict=True)), lambda key: concept(spec, concept_map, *key), spec.column or "code")

    def identifiers(self, spec: IdentifierFrom, frame: pl.DataFrame) -> list[Any]:
        texts = _texts(frame, spec.column)
        if spec.system_column:
            systems = _texts(frame, spec.system_column)
        else:
            systems = [spec.system or self.systems[spec.name or ""]] * frame.height
        return each(list(zip(systems, texts, strict=True)), lambda pair: identifier(spec, *pair), spec.column)

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
        signs = comparators_of(kind, "quantity", measured) if measured else {}
        quantities = self.quantities(measured, frame, signs, [_term(code) for code in codes]) if measured else nothing
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
            if problem := next((one for one in found if isinstance(one, Problem)), None):
                return problem
            return put_together(PatientRef, identifiers=found, **dict(zip(said, key[count:], strict=True)))

        return each(list(zip(*identifiers, *columns, strict=True)), make, absent.column)

    def encounters(self, specs: Sequence[IdentifierFrom], frame: pl.DataFrame) -> list[Any]:
        if not specs:
            return [()] * frame.height
        columns = [self.identifiers(spec, frame) for spec in specs]
        return [_joined([one for one in row if one is not None]) for row in zip(*columns, strict=True)]


def _texts(frame: pl.DataFrame, column: str) -> list[str | None]:
    return frame.get_column(column).to_list()


def _joined(members: Sequence[Any]) -> Any:
    """The members of a list as one value: the first problem of theirs, or all with the notes of those that were repaired."""
    plain, notes = unwrapped(members)
    problem = next((one for one in plain if isinstance(one, Problem)), None)
    if problem is not None:
        return problem
    return Repaired(tuple(plain), notes) if notes else tuple(plain)


def _term(code: Any) -> LoincTerm | None:
    """The LOINC term of a concept, if we know one of its codings."""
    (concept,), _ = unwrapped([code])
    codings = concept.codings if isinstance(concept, Concept) else ()
    return next((t for c in codings if c.system == LOINC and (t := loinc_terms().get(c.code)) is not None), None)
