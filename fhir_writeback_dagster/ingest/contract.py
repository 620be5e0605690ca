"""A source contract, ``mappings/sources/<source>/<n>.yaml``: how one version of a source's files become canonical records.

::

    source: mercy_vitals                # = the folder's name
    version: 1                          # = the file's name; a version never changes once rows went through it
    title: Bedside vitals, nightly CSV
    time_zone: Europe/Zurich            # of times without an offset; left out: the tenant's
    actor: {type: source}               # or {type: agent, id: triage-bot, model_column: MODEL}; id: the source's name
    tables:
      vitals:
        files: "vitals_*.csv"           # glob on the file's name; the first table that matches takes the file
        format: csv                     # csv | jsonl | parquet; all read as text. JSONL objects flatten to `a.b`
        delimiter: ";"                  # csv only, default ","
        nulls: ["", "NULL"]             # texts that mean "not said", default [""]; texts are trimmed first
        columns:                        # every column that is known, and what it may become
          ROW_ID: operational           #   operational: identity, order, rules; never a value in the chart
          MRN: chart                    #   chart: may become a canonical field
          VISIT: optional chart         #   optional: the file may lack it
          TAKEN: chart
          ITEM: chart
          VALUE: chart
          UNIT: chart
          STATE: chart
          WARD_NOTE: source_only        #   source_only: kept sealed with the row, read by nothing
          CHANGED: operational
        patient:
          identifiers: [{column: MRN, name: mrn}]     # name: system from the tenant's sources.<source>.patient_systems
        encounter: [{column: VISIT, system: "urn:x:visit"}]
        identity: [ROW_ID]              # which row of the source this is; a correction keeps it
        as_of: {column: CHANGED}        # the source's own order of versions; left out: it declares none
        fields:                         # shared by all `rows` whose kind has that field; a rule's own wins
          effective: {column: TAKEN, order: dmy}
          status: {column: STATE, values: {F: final, P: preliminary}}
        rows:                           # first rule whose `when` holds takes the row; none: quarantined, `no_rule`
          - when: {ITEM: [SYS, DIA]}
            kind: vital_sign
            group: {by: [MRN, VISIT, TAKEN], code: {system: "http://loinc.org", code: 85354-9, display: Blood pressure}}
            fields:
              code: {column: ITEM, concept_map: mercy-vitals}
              quantity: {column: VALUE, unit: "mm[Hg]"}
          - when: {ITEM: [COMMENT]}
            not_written: source_truth_only
          - kind: vital_sign
            fields:
              code: {column: ITEM, concept_map: mercy-vitals}
              quantity: {column: VALUE, unit_column: UNIT, units: [kg, cm, Cel], decimals: 1}

A field of ``fields`` is a field of the kind's model in :mod:`fhir_writeback_dagster.canonical`; what it is made from follows
its type: :class:`ConceptFrom`, :class:`QuantityFrom`, :class:`DateFrom`, :class:`IdentifierFrom`, :class:`ReactionFrom`,
:class:`ComponentFrom`, :class:`ContentFrom` (a document's ``data``; its ``sha256`` follows), else :class:`TextFrom`. Each may be
a list of alternatives with ``when``: the first that holds gives the value, none leaves the field unsaid. ``when`` maps a column
to a list of texts, or to ``present`` or ``absent``; all of its columns must hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fhir_writeback_dagster.canonical import KINDS
from fhir_writeback_dagster.ingest.fields import (
    Conditions,
    DateFrom,
    Fields,
    IdentifierFrom,
    TextFrom,
    check_words,
    fields_model,
)
from fhir_writeback_dagster.tenants import TimeZone


def _known_kind(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"expected one of {', '.join(KINDS)}")
    return kind


Role = Literal["chart", "operational", "source_only"]
Kind = Annotated[str, AfterValidator(_known_kind)]
Reason = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Strict):
    """Written ``chart``, ``operational`` or ``source_only``, with ``optional`` before it where the file may lack it."""

    role: Role
    required: bool = True


def _column(value: object) -> object:
    if isinstance(value, str):
        role = value.removeprefix("optional ")
        return {"role": role, "required": role == value}
    return value


class ActorFrom(_Strict):
    type: Literal["source", "agent"] = "source"
    id: str | None = Field(None, description="left out: the source's name")
    model: str | None = None
    model_column: str | None = Field(None, description="column that names the agent's model")


class PatientFrom(_Strict):
    """``birth_date`` and names confirm a match; a row without a value in any identifier is quarantined, ``no_patient``."""

    identifiers: tuple[IdentifierFrom, ...] = Field(min_length=1)
    family: TextFrom | None = None
    given: TextFrom | None = None
    birth_date: DateFrom | None = None
    sex: TextFrom | None = None


class GroupCode(_Strict):
    system: str
    code: str
    display: str | None = None


class Group(_Strict):
    """Rows that agree in the columns of ``by`` are one Observation with this ``code``.

    Each row's own code and value become a component; everything else they say must be equal (``group_disagrees``). Copies of
    a row go to the same record; two different rows of one component code are quarantined (``ambiguous_group``).
    """

    by: tuple[str, ...] = Field(min_length=1)
    code: GroupCode


class NotWritten(_Strict):
    """Rows that are kept, sealed, and never become a record: the reason is shown with them."""

    when: Conditions = Field(default_factory=dict)
    not_written: Reason


class Rule(_Strict):
    """Rows that become records of one kind."""

    when: Conditions = Field(default_factory=dict)
    kind: Kind
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
        return fields

    @model_validator(mode="after")
    def _only_observations_group(self) -> Self:
        if self.group and self.kind not in {"vital_sign", "lab_result", "observation"}:
            raise ValueError("only vital_sign, lab_result and observation rows group into components")
        return self


def _row_rule(value: object) -> str:
    return "not_written" if isinstance(value, NotWritten) or (isinstance(value, dict) and "not_written" in value) else "rule"


AnyRule = Annotated[Annotated[Rule, Tag("rule")] | Annotated[NotWritten, Tag("not_written")], Discriminator(_row_rule)]


class Table(_Strict):
    files: str = Field(min_length=1)
    format: Literal["csv", "jsonl", "parquet"]
    encoding: Literal["utf-8", "utf-16", "latin-1", "windows-1252"] = "utf-8"
    delimiter: str = Field(",", min_length=1, max_length=1)
    final_newline: Literal["required", "optional"] = Field(
        "required", description="a csv file without a last line end may be cut within a value; a manifest proves it whole"
    )
    nulls: tuple[str, ...] = ("",)
    columns: dict[str, Annotated[Column, BeforeValidator(_column)]] = Field(min_length=1)
    patient: PatientFrom | None = None
    encounter: tuple[IdentifierFrom, ...] = ()
    identity: tuple[str, ...] = Field((), description="columns that say which row of the source this is")
    discriminator: tuple[str, ...] = Field(
        (), description="rows of one extract that agree in `identity` and differ here are distinct facts"
    )
    as_of: DateFrom | None = None
    rows: tuple[AnyRule, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _share_fields(cls, data: Any) -> Any:
        """Give the table's ``fields`` to each rule whose kind has them; the rule's own win."""
        if not isinstance(data, dict) or not isinstance(data.get("fields"), dict) or not isinstance(data.get("rows"), list):
            return data
        shared = data["fields"]
        used: set[str] = set()
        rows = []
        for rule in data["rows"]:
            if isinstance(rule, dict) and rule.get("kind") in KINDS and isinstance(rule.get("fields", {}), dict):
                known = shared.keys() & fields_model(rule["kind"]).model_fields
                used |= known
                own = rule.get("fields", {})
                rows.append({**rule, "fields": {**{k: shared[k] for k in shared if k in known}, **own}})
            else:
                rows.append(rule)
        if unused := sorted(shared.keys() - used):
            raise ValueError(f"no rule's kind has the shared fields {', '.join(map(str, unused))}")
        return {**{k: v for k, v in data.items() if k != "fields"}, "rows": rows}

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_columns()
        rules = [rule for rule in self.rows if isinstance(rule, Rule)]
        if rules and self.patient is None:
            raise ValueError("`patient` is missing: a record belongs to one")
        if any(rule.group is None for rule in rules) and not self.identity:
            raise ValueError("`identity` is missing: name the columns that say which row of the source this is")
        if any(rule.when == {} for rule in self.rows[:-1]):
            raise ValueError("a rule without `when` takes every row: it can only be the last")
        return self

    def _check_columns(self) -> None:
        read = set(_columns_read(self))
        if unknown := sorted(read - self.columns.keys()):
            raise ValueError(f"not in `columns`: {', '.join(unknown)}")
        if wrong := sorted(name for name in read if self.columns[name].role == "source_only"):
            raise ValueError(f"source_only columns are read: {', '.join(wrong)}")
        if wrong := sorted(name for name in set(_columns_charted(self)) if self.columns[name].role != "chart"):
            raise ValueError(f"these become values of the chart but are not `chart`: {', '.join(wrong)}")
        if wrong := sorted(name for name, column in self.columns.items() if column.role == "chart" and name not in read):
            raise ValueError(f"`chart` columns that nothing reads: {', '.join(wrong)}")

    @property
    def required(self) -> list[str]:
        """Columns that a file must have."""
        return [name for name, column in self.columns.items() if column.required]


def _columns_charted(table: Table) -> Iterator[str]:
    if table.patient:
        for spec in (
            *table.patient.identifiers,
            *filter(None, (table.patient.family, table.patient.given, table.patient.birth_date, table.patient.sex)),
        ):
            yield from spec.columns()
    for spec in table.encounter:
        yield from spec.columns()
    for rule in table.rows:
        if isinstance(rule, Rule):
            for alternatives in rule.fields.specs().values():
                for spec in alternatives:
                    yield from spec.columns()


def _columns_read(table: Table) -> Iterator[str]:
    yield from _columns_charted(table)
    yield from table.identity
    yield from table.discriminator
    if table.as_of:
        yield from table.as_of.columns()
    for rule in table.rows:
        yield from rule.when
        if isinstance(rule, Rule):
            if rule.group:
                yield from rule.group.by
            for alternatives in rule.fields.specs().values():
                for spec in alternatives:
                    yield from spec.when


class Contract(_Strict):
    """One version of a source; see the module's example."""

    source: str
    version: int = Field(ge=1)
    title: str = ""
    time_zone: TimeZone | None = None
    actor: ActorFrom = ActorFrom()
    ignore: tuple[str, ...] = Field((), description="globs of files that the source also exports and that nobody wants")
    tables: dict[str, Table] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_actor(self) -> Self:
        column = self.actor.model_column
        if column and (missing := [name for name, t in self.tables.items() if column not in t.columns]):
            raise ValueError(f"actor.model_column is no column of {', '.join(missing)}")
        return self

    def ignores(self, file_name: str) -> bool:
        return any(fnmatchcase(file_name, pattern) for pattern in self.ignore)

    def table_of(self, file_name: str) -> str | None:
        """Name of the first table whose pattern the file's name (no folders) matches."""
        return next((name for name, table in self.tables.items() if fnmatchcase(file_name, table.files)), None)
