"""The parts of a table in a source contract: what a column may be, whose the rows are, and the rules that take them."""

from __future__ import annotations

from functools import reduce
from typing import Annotated, Literal, Self

import polars as pl
from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fhir_writeback_dagster.canonical import KINDS
from fhir_writeback_dagster.config.strict_model import StrictModel
from fhir_writeback_dagster.ingest.contracts.fields import (
    Conditions,
    DateFrom,
    Fields,
    IdentifierFrom,
    Matches,
    TextFrom,
    check_comparators,
    check_words,
    fields_model,
)


def _known_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"expected one of {', '.join(KINDS)}")
    return kind


ColumnRole = Literal["chart", "operational", "source_only"]
RecordKind = Annotated[str, AfterValidator(_known_kind)]
Reason = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Column(StrictModel):
    """Written ``chart``, ``operational`` or ``source_only``, with ``optional`` before it where the file may lack it."""

    role: ColumnRole
    required: bool = True


def column_role(value: object) -> object:
    if isinstance(value, str):
        role = value.removeprefix("optional ")
        return {"role": role, "required": role == value}
    return value


class ActorFrom(StrictModel):
    type: Literal["source", "agent"] = "source"
    id: str | None = Field(None, description="left out: the source's name")
    model: str | None = None
    model_column: str | None = Field(None, description="column that names the agent's model")


class PatientFrom(StrictModel):
    """Names, ``birth_date`` and ``sex`` confirm a match; address and phone count where a tenant matches on demographics. A row
    without a value in any identifier is quarantined, ``no_patient``.
    """

    identifiers: tuple[IdentifierFrom, ...] = Field(min_length=1)
    family: TextFrom | None = None
    given: TextFrom | None = None
    birth_date: DateFrom | None = None
    sex: TextFrom | None = None
    line: TextFrom | None = None
    city: TextFrom | None = None
    postal_code: TextFrom | None = None
    state: TextFrom | None = None
    phone: TextFrom | None = None

    def demographics(self) -> dict[str, TextFrom | DateFrom]:
        """What is said besides the identifiers, by the name of its field in :class:`PatientRef`."""
        return {name: spec for name in type(self).model_fields if isinstance(spec := getattr(self, name), TextFrom | DateFrom)}


class GroupCode(StrictModel):
    system: str
    code: str
    display: str | None = None


class Group(StrictModel):
    """Rows that agree in the columns of ``by`` are one Observation with this ``code``.

    Each row's own code and value become a component; everything else they say must be equal (``group_disagrees``). Copies of
    a row go to the same record; two different rows of one component code are quarantined (``ambiguous_group``).
    """

    by: tuple[str, ...] = Field(min_length=1)
    code: GroupCode


class NotWritten(StrictModel):
    """Rows that are kept, sealed, and never become a record: the reason is shown with them."""

    when: Conditions = Field(default_factory=dict)
    not_written: Reason


class RowRule(StrictModel):
    """Rows that become records of one kind."""

    when: Conditions = Field(default_factory=dict)
    kind: RecordKind
    fields: Fields
    group: Group | None = None

    @field_validator("fields", mode="plain")
    @classmethod
    def _fields_of_the_kind(cls, value: object, info: ValidationInfo) -> Fields:
        kind = info.data.get("kind")
        if kind is None:
            return Fields()  # the kind's own complaint is enough
        fields = fields_model(kind).model_validate(value)
        for name, alternatives in fields.specs().items():
            for spec in alternatives:
                check_words(kind, name, spec)
                check_comparators(name, spec)
        return fields

    @model_validator(mode="after")
    def _only_observations_group(self) -> Self:
        if self.group and self.kind not in {"vital_sign", "lab_result", "observation"}:
            raise ValueError("only vital_sign, lab_result and observation rows group into components")
        return self


def _row_rule(value: object) -> str:
    return "not_written" if isinstance(value, NotWritten) or (isinstance(value, dict) and "not_written" in value) else "rule"


AnyRule = Annotated[Annotated[RowRule, Tag("rule")] | Annotated[NotWritten, Tag("not_written")], Discriminator(_row_rule)]


_NUMBER = r"(?:[<>]=?|[≤≥])?\s*[+-]?(?:[0-9]+(?:[.,][0-9]+)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?"


def _as_the_pattern(column: str, pattern: str, *, wanted: bool) -> pl.Expr:
    """A column that says nothing neither matches nor does not."""
    found = pl.col(column).str.contains(f"^(?:{pattern})$")
    return (found if wanted else ~found).fill_null(value=False)


def holds(when: Conditions) -> pl.Expr:
    """Whether a row is as the conditions say."""
    tests = []
    for column, wanted in when.items():
        if wanted == "present":
            tests.append(pl.col(column).is_not_null())
        elif wanted == "absent":
            tests.append(pl.col(column).is_null())
        elif wanted in ("number", "not_number"):
            tests.append(_as_the_pattern(column, _NUMBER, wanted=wanted == "number"))
        elif isinstance(wanted, Matches):
            tests.append(_as_the_pattern(column, wanted.matches or wanted.not_matches or "", wanted=wanted.matches is not None))
        else:
            texts = [text for text in wanted if text is not None]
            test = pl.col(column).is_in(texts).fill_null(value=False)
            tests.append(test | pl.col(column).is_null() if None in wanted else test)
    return reduce(lambda a, b: a & b, tests, pl.lit(value=True))
