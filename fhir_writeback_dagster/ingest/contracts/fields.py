"""What a canonical field is made from: the words of a source contract below ``fields``, ``patient`` and ``encounter``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import polars as pl
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from fhir_writeback_dagster import canonical
from fhir_writeback_dagster.config.strict_model import StrictModel
from fhir_writeback_dagster.config.tenants import TimeZone
from fhir_writeback_dagster.rules.consent.codes import ACT_CODE
from fhir_writeback_dagster.rules.fhir.ucum import is_ucum


def _regular_expression(pattern: str) -> str:
    try:
        pl.Series([""]).str.contains(f"^(?:{pattern})$")
    except pl.exceptions.ComputeError:
        raise ValueError(f"{pattern!r} is no regular expression (Rust's regex)") from None
    return pattern


#: Of the whole text; Rust's regex, which takes linear time whatever the text.
Regex = Annotated[str, AfterValidator(_regular_expression)]

#: What may stand before a number: no digit, sign or mark of a number, so that one text has one reading.
Sign = Annotated[str, Field(pattern=r"^[^\d\s.,+-]+( [^\d\s.,+-]+)*$")]

#: FHIR's own signs (R4, quantity-comparator).
COMPARATORS: Mapping[str, canonical.Comparator] = MappingProxyType({"<": "<", "<=": "<=", ">=": ">=", ">": ">"})


class Matches(StrictModel):
    """A column's whole text is as the regular expression says, or says something that is not."""

    matches: Regex | None = None
    not_matches: Regex | None = None

    @model_validator(mode="after")
    def _check(self) -> Matches:
        if (self.matches is None) == (self.not_matches is None):
            raise ValueError("expected one of matches, not_matches")
        return self


#: Column -> its texts (None is a column that says nothing), a regular expression, or what it says: anything, nothing, a number
#: (with or without a comparator), or something that is no number. All columns must hold.
Conditions = dict[str, Literal["present", "absent", "number", "not_number"] | Matches | tuple[str | None, ...]]


class From(StrictModel):
    """``when`` decides whether this alternative gives the field's value."""

    when: Conditions = Field(default_factory=dict)

    def parts(self) -> Iterator[From]:
        """Itself, or what it is put together from."""
        yield self

    def columns(self) -> Iterator[str]:
        """Columns whose text becomes a value of the chart; those of ``when`` only choose."""
        for part in self.parts():
            for name in ("column", "time_column", "system_column", "display", "text", "unit_column", "comparator_column"):
                value = getattr(part, name, None)
                if isinstance(value, str):
                    yield value

    def _one_of(self, *names: str) -> None:
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"expected exactly one of {', '.join(names)}")


class TextFrom(From):
    """A word, text or number: a column's text, or ``constant``, or what the tenant chooses.

    ``choice`` names what a source cannot say (why an order ended): one of ``words``, of which the first holds unless the tenant's
    ``sources.<source>.choices`` says another.

    ``values`` translates; a text that it does not hold is a problem of that row (``unknown_value``). A word that the canonical
    field does not know is one too, for columns, and of the contract, for constants and ``values``.
    """

    column: str | None = None
    constant: str | None = None
    choice: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]*$")
    words: tuple[str, ...] = ()
    values: dict[str, str] | None = None

    @model_validator(mode="after")
    def _check(self) -> TextFrom:
        self._one_of("column", "constant", "choice")
        if (self.choice is None) == bool(self.words):
            raise ValueError("`choice` and `words` go together")
        return self


ZoneName = Annotated[str, Field(pattern=r"^[A-Za-z]{2,5}$")]
Offset = Annotated[str, Field(pattern=r"^[+-]\d{2}:\d{2}$")]


class DateFrom(From):
    """A date or time, with the precision that it came with.

    ISO 8601 and dates with an English month name (``3 Apr 2025``) need no ``order``. Dates of digits alone
    (``03/04/2025``) need it: without, they are quarantined as ``ambiguous_date`` unless only one reading exists, as of
    ``20250403`` and HL7's ``20250403101500+0200``. Years have four digits and lie within 1800 to 2199. A time without an
    offset is in ``time_zone``, else the contract's, else the tenant's. A zone's short name counts only where ``zones`` says
    what it is here: EST is New York's, or Brisbane's.
    """

    column: str
    time_column: str | None = Field(None, description="the time of day, where it has a column of its own")
    order: Literal["dmy", "mdy", "ymd"] | None = None
    form: Literal["text", "epoch_seconds", "epoch_milliseconds", "excel"] = Field(
        "text", description="what a number stands for: seconds or milliseconds since 1970 in UTC, or days since 1899-12-30"
    )
    zones: dict[ZoneName, Offset] = Field(
        default_factory=dict, description="short names of zones that may stand behind a time: {EST: '-05:00'}"
    )
    time_zone: TimeZone | None = None


class ConceptFrom(From):
    """A coded value.

    Standard codes: ``column`` (or a constant ``code``) and their ``system``, or ``system_column`` with ``systems`` (its texts →
    system URIs; another text is ``unknown_code_system``). Local codes: ``column`` and ``concept_map``, a FHIR ConceptMap
    ``mappings/concepts/<name>.json``, where runs of white space count as one space; a code without an equal or equivalent
    target is quarantined (``unmapped_code``), or, with ``unmapped: text``, kept as text only. ``display`` and ``text`` name
    columns; ``text`` alone is a concept without a code.
    """

    column: str | None = None
    code: str | None = None
    system: str | None = None
    system_column: str | None = None
    systems: dict[str, str] | None = None
    concept_map: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_-]*$")
    display: str | None = None
    text: str | None = None
    unmapped: Literal["quarantine", "text"] = "quarantine"
    keep_local: bool = Field(True, description="the local code goes along, after the standard ones")

    @model_validator(mode="after")
    def _check(self) -> ConceptFrom:
        if self.column is None and self.code is None:
            if self.text is None or self.system or self.system_column or self.concept_map:
                raise ValueError("expected `column` or `code`, or `text` alone")
            return self
        self._one_of("column", "code")
        self._one_of("system", "system_column", "concept_map")
        if (self.system_column is None) != (self.systems is None):
            raise ValueError("`system_column` and `systems` go together")
        if self.unmapped == "text" and self.concept_map is None:
            raise ValueError("`unmapped` goes with `concept_map`")
        return self


class QuantityFrom(From):
    """A number with its unit: ``unit`` (a UCUM code) or ``unit_column``.

    The column's unit is read by :func:`~fhir_writeback_dagster.rules.fhir.unit_reading.read_unit`: UCUM, or a word with one
    meaning, and of a result whose LOINC code we know only what it can come in (else ``unknown_unit``, ``ambiguous_unit``,
    ``unit_unexpected``). With ``units``, values come out in one of these: another unit of the same dimension is converted and
    rounded to ``decimals``, any other is ``unit_not_comparable``. ``decimal_mark`` is never guessed; a thousands mark is
    ``bad_decimal``.

    ``comparators`` is what may stand before the number (or in ``comparator_column``) and the FHIR comparator that it is; ``{}``
    takes none, and so does a kind other than lab_result that leaves it out (``comparator_not_allowed``). R4's vital-signs
    profiles do not forbid one, but who reads a vital sign takes it for a reading: a contract has to want it. A bound that is
    converted is rounded outwards: ``<4.94`` as ``<4.9`` would say more than was measured.

    ``extract`` takes the number out of a longer text: of ``120/80`` the one before the slash by ``([0-9]+)/[0-9]+``.
    """

    column: str
    extract: Regex | None = Field(None, description="a regular expression of the whole text, with one group: the number")
    unit: str | None = None
    unit_column: str | None = None
    units: tuple[str, ...] = ()
    decimals: int = Field(2, ge=0, le=10, description="of converted values; others keep the digits they came with")
    decimal_mark: Literal[".", ","] = "."
    comparators: dict[Sign, canonical.Comparator] | None = Field(
        None, description="left out: `<`, `<=`, `>=` and `>` of a lab_result, none of other kinds"
    )
    comparator_column: str | None = None

    @model_validator(mode="after")
    def _check(self) -> QuantityFrom:
        self._one_of("unit", "unit_column")
        if self.extract is not None and not _has_one_group(self.extract):
            raise ValueError("`extract` needs exactly one group (write others as `(?:...)`)")
        for code in (*self.units, *([self.unit] if self.unit else [])):
            if not is_ucum(code):
                raise ValueError(f"{code} is no UCUM code")
        return self


def _has_one_group(pattern: str) -> bool:
    names = pl.select(pl.lit("").str.extract_groups(f"^(?:{pattern})$")).to_series().dtype
    return len(names.fields) == 1 if isinstance(names, pl.Struct) else False


class IdentifierFrom(From):
    """An identifier: of a ``system`` URI, of the one that a column says, or of that which the tenant gives to ``name``.

    A word for "nothing" (``NULL``, ``nan``) is none, and what a float column makes of digits (``100.0``) is ``bad_identifier``.
    """

    column: str
    system: str | None = None
    system_column: str | None = None
    name: str | None = Field(None, description="key in the tenant's sources.<source>.patient_systems")
    any_text: bool = Field(False, description="the source has identifiers that look like null words or floats")

    @model_validator(mode="after")
    def _check(self) -> IdentifierFrom:
        self._one_of("system", "system_column", "name")
        return self


class ContentFrom(From):
    """A document's bytes: the text of ``column`` in UTF-8, or what its base64 says."""

    column: str
    encoded: Literal["text", "base64"] = "text"


class ReactionFrom(From):
    """One reaction; left out where the row does not say its manifestation."""

    manifestation: ConceptFrom
    severity: TextFrom | None = None

    def parts(self) -> Iterator[From]:
        yield from filter(None, (self.manifestation, self.severity))


class LabelFrom(From):
    """One security label of the record, a code of HL7's v3-ActCode unless ``system`` says otherwise.

    ``values`` translates the column's texts, null for "no label"; a text that it does not hold is ``unknown_value``: a label
    that nobody understands must not get lost.
    """

    column: str | None = None
    code: str | None = Field(None, description="the same label for every row")
    system: str = ACT_CODE
    values: dict[str, str | None] | None = None

    @model_validator(mode="after")
    def _check(self) -> LabelFrom:
        self._one_of("column", "code")
        return self


class ComponentFrom(From):
    """One component of a row that holds several measurements; left out where the row does not say its value."""

    code: ConceptFrom
    quantity: QuantityFrom | None = None
    concept: ConceptFrom | None = None
    text: TextFrom | None = None

    def parts(self) -> Iterator[From]:
        yield from filter(None, (self.code, self.quantity, self.concept, self.text))


class Fields(StrictModel):
    """Base of the models that :func:`fields_model` makes, one a kind: canonical field → its alternatives."""

    @field_validator("*", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        return [value] if isinstance(value, dict) else value

    def specs(self) -> dict[str, tuple[From, ...]]:
        """Fields that the contract names, in the kind's order."""
        return {name: getattr(self, name) for name in type(self).model_fields if getattr(self, name)}


#: Fields that a contract does not make one by one: they come from `patient`, `encounter`, `actor`, `discriminator` and so on.
_MADE_ELSEWHERE = {"patient", "encounter", "actor", "discriminator", "repairs", "kind", "sha256"}

#: Fields whose alternatives all hold at once: each gives one member of the list.
LISTS = {"components", "labels", "reactions"}

_MODELS: dict[str, type[BaseModel]] = {
    model.model_fields["kind"].default: model for model in get_args(get_args(canonical.CanonicalRecord)[0])
}


def record_model(kind: str) -> type[BaseModel]:
    """The canonical model of a kind."""
    return _MODELS[kind]


def _made_from(name: str, annotation: object) -> type[From]:
    if name == "data":
        return ContentFrom
    found: set[object] = set()
    pending: list[object] = [annotation]
    while pending:
        part = pending.pop()
        found.add(part)
        if part != canonical.DateTime and get_origin(part) is not Literal:
            pending += get_args(part)
    kinds: tuple[tuple[object, type[From]], ...] = (
        (canonical.Component, ComponentFrom),
        (canonical.Reaction, ReactionFrom),
        (canonical.Concept, ConceptFrom),
        (canonical.Coding, LabelFrom),
        (canonical.Quantity, QuantityFrom),
        (canonical.Identifier, IdentifierFrom),
        (canonical.DateTime, DateFrom),
    )
    return next((spec for mark, spec in kinds if mark in found), TextFrom)


@cache
def fields_model(kind: str) -> type[Fields]:
    """The model of ``fields`` for a kind, made from the kind's own fields so that the two cannot drift apart.

    :raises KeyError: not a kind.
    """
    model = _MODELS[kind]
    hints = get_type_hints(model, include_extras=True)
    wanted: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        if name in _MADE_ELSEWHERE:
            continue
        many: Any = tuple.__class_getitem__((_made_from(name, hints[name]), ...))
        wanted[name] = (many, Field(min_length=1) if info.is_required() else ())
    made: type[Fields] = create_model(f"{model.__name__}Fields", __base__=Fields, **wanted)
    return made


def check_words(kind: str, name: str, spec: From) -> None:
    """Refuse constants and translations that the canonical field could never hold.

    :raises ValueError: names the word and what is allowed.
    """
    if not isinstance(spec, TextFrom):
        return
    adapter, _ = word_adapter(kind, name)
    for word in (*([spec.constant] if spec.constant is not None else []), *spec.words, *(spec.values or {}).values()):
        try:
            adapter.validate_python(word)
        except ValidationError as error:
            raise ValueError(f"{name} cannot be {word!r}: {error.errors()[0]['msg']}") from None


def check_comparators(name: str, spec: From) -> None:
    """Refuse comparators where R4 has none: a reference range's bounds are SimpleQuantities.

    :raises ValueError: says so.
    """
    if name.startswith("reference_") and isinstance(spec, QuantityFrom) and (spec.comparators or spec.comparator_column):
        raise ValueError(f"{name} takes no comparator (R4, SimpleQuantity)")


def comparators_of(kind: str, name: str, spec: QuantityFrom) -> Mapping[str, canonical.Comparator]:
    """What may stand before the number of a field that is made from ``spec``: the FHIR comparator of each."""
    if spec.comparators is not None:
        return spec.comparators
    return COMPARATORS if kind == "lab_result" and not name.startswith("reference_") else {}


@cache
def word_adapter(kind: str, name: str) -> tuple[TypeAdapter[Any], bool]:
    """Reads one text as the canonical field (a word of its list, a number, a flag), and whether the field is a list of such."""
    annotation = get_type_hints(_MODELS[kind], include_extras=True)[name]
    many = get_origin(annotation) is tuple
    return TypeAdapter(get_args(annotation)[0] if many else annotation), many
