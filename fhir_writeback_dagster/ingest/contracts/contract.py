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
        format: csv                     # csv | jsonl | parquet | html | fhir; all read as text (see Table)
        delimiter: ";"                  # csv only, default ","
        nulls: ["", "NULL"]             # texts that mean "not said", default [""]; texts are trimmed first
        columns:                        # every column that is known, and what it may become
          ROW_ID: operational           #   operational: identity, order, rules; never a value in the chart
          MRN: chart                    #   chart: may become a canonical field
          NAME: chart
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
          family: {column: NAME}        # also given, birth_date, sex, line, city, postal_code, state, phone; all optional
        encounter: [{column: VISIT, system: "urn:x:visit"}]
        identity: [ROW_ID]              # which row of the source this is; a correction keeps it
        as_of: {column: CHANGED}        # the source's own order of versions; left out: it declares none
        fields:                         # shared by all `rows` whose kind has that field; a rule's own wins
          effective: {column: TAKEN, order: dmy}
          status: {column: STATE, values: {F: final, P: preliminary}}
          labels: [{code: 42CFRPart2}]  # security labels, all that hold; or {column: SENS, values: {Y: HIV, N: null}}
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
:class:`ComponentFrom`, :class:`LabelFrom`, :class:`ContentFrom` (a document's ``data``; its ``sha256`` follows), else
:class:`TextFrom`. Each may be a list of alternatives with ``when``: the first that holds gives the value, none leaves the field
unsaid. ``when`` maps a column to a list of texts, or to ``present`` or ``absent``; all of its columns must hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from lxml import etree
from pydantic import BeforeValidator, Field, field_validator, model_validator

from fhir_writeback_dagster.canonical import KINDS
from fhir_writeback_dagster.config.strict_model import StrictModel
from fhir_writeback_dagster.config.tenants import TimeZone
from fhir_writeback_dagster.ingest.contracts.fields import Conditions, DateFrom, IdentifierFrom, fields_model
from fhir_writeback_dagster.ingest.contracts.repeat import counts, repeated
from fhir_writeback_dagster.ingest.contracts.reserved_columns import BROKEN, LINE
from fhir_writeback_dagster.ingest.contracts.row_rules import ActorFrom, AnyRule, Column, PatientFrom, RowRule, column_role

#: What databases put where nothing has ended yet.
NO_END = ("9999-12-31", "2099-12-31")


class Table(StrictModel):
    """How one kind of file is read.

    jsonl: an object a line, flattened to ``a.b``; lists stay JSON.
    html: :mod:`~fhir_writeback_dagster.ingest.readers.html_tables`.
    fhir: :mod:`~fhir_writeback_dagster.ingest.readers.fhir`.
    """

    files: str = Field(min_length=1)
    format: Literal["csv", "jsonl", "parquet", "html", "fhir"]
    page: dict[str, str] = Field(
        default_factory=dict, description="html: columns whose one value stands outside of the table, each with its XPath"
    )
    repeat: dict[str, int] = Field(
        default_factory=dict, description="how many members of a list the contract reads; see contracts/repeat.py"
    )
    ignored: tuple[str, ...] = Field((), description="fhir: globs of elements that change nothing that is said")
    encoding: Literal["utf-8", "utf-16", "latin-1", "windows-1252"] = "utf-8"
    delimiter: str = Field(",", min_length=1, max_length=1)
    final_newline: Literal["required", "optional"] = Field(
        "required", description="a csv file without a last line end may be cut within a value; a manifest proves it whole"
    )
    escape: Literal["\\"] | None = Field(None, description="csv: a backslash before a quote or another backslash makes it text")
    title_lines: int = Field(0, ge=0, le=100, description="csv: lines that say something above the header")
    footer: tuple[str, ...] = Field((), description="csv: globs of lines below the last row, such as `Total rows: *`")
    nulls: tuple[str, ...] = ("",)
    no_end: tuple[str, ...] = Field(
        NO_END, description="days that stand for `no end`, in any order of day and month; or texts, as they are written"
    )
    ends: tuple[str, ...] = Field(
        (),
        description="columns that say when something ended, besides those that the rules show to be; a time that is still to "
        "come is as if not said",
    )
    columns: dict[str, Annotated[Column, BeforeValidator(column_role)]] = Field(min_length=1)
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
        """Give the table's ``fields`` to each rule whose kind has them; the rule's own win. What is repeated is so before."""
        if isinstance(data, dict) and isinstance(data.get("repeat"), dict):
            data = {
                "repeat": data["repeat"],
                **repeated({k: v for k, v in data.items() if k != "repeat"}, counts(data["repeat"])),
            }
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
        rules = [rule for rule in self.rows if isinstance(rule, RowRule)]
        if rules and self.patient is None:
            raise ValueError("`patient` is missing: a record belongs to one")
        if any(rule.group is None for rule in rules) and not self.identity:
            raise ValueError("`identity` is missing: name the columns that say which row of the source this is")
        if self.format == "fhir" and "resourceType" not in self.columns:
            raise ValueError("`resourceType` is missing in `columns`: it says which rule takes a resource")
        if unknown := sorted(self.page.keys() - self.columns.keys()):
            raise ValueError(f"not in `columns`: {', '.join(unknown)}")
        if any(rule.when == {} for rule in self.rows[:-1]):
            raise ValueError("a rule without `when` takes every row: it can only be the last")
        return self

    @field_validator("page")
    @classmethod
    def _check_page(cls, page: dict[str, str]) -> dict[str, str]:
        for name, path in page.items():
            try:
                etree.XPath(path)
            except etree.XPathError:
                raise ValueError(f"{name}: not an XPath") from None
        return page

    def _check_columns(self) -> None:
        if reserved := sorted({BROKEN, LINE} & self.columns.keys()):
            raise ValueError(f"reserved names: {', '.join(reserved)}")
        if unknown := sorted(set(self.ends) - self.columns.keys()):
            raise ValueError(f"`ends` names no column: {', '.join(unknown)}")
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


def columns_read_by(table: Table, rule: RowRule) -> dict[str, list[Conditions]]:
    """Columns that have a say in a record of ``rule``, each with the conditions under which it has; ``{}`` always holds."""
    always = [*_columns_of_all(table), *table.identity, *table.discriminator, *rule.when]
    if table.as_of:
        always += table.as_of.columns()
    read: dict[str, list[Conditions]] = {column: [{}] for column in always}
    for alternatives in rule.fields.specs().values():
        for spec in alternatives:
            for column in (*spec.columns(), *spec.when):
                read.setdefault(column, []).append(spec.when)
    return read


def _columns_charted(table: Table) -> Iterator[str]:
    yield from _columns_of_all(table)
    for rule in table.rows:
        if isinstance(rule, RowRule):
            yield from _columns_of(rule)


def _columns_of(rule: RowRule) -> Iterator[str]:
    for alternatives in rule.fields.specs().values():
        for spec in alternatives:
            yield from spec.columns()


def _columns_of_all(table: Table) -> Iterator[str]:
    if table.patient:
        for spec in (*table.patient.identifiers, *table.patient.demographics().values()):
            yield from spec.columns()
    for spec in table.encounter:
        yield from spec.columns()


def _columns_read(table: Table) -> Iterator[str]:
    yield from _columns_charted(table)
    yield from table.identity
    yield from table.discriminator
    if table.as_of:
        yield from table.as_of.columns()
    for rule in table.rows:
        yield from rule.when
        if isinstance(rule, RowRule):
            if rule.group:
                yield from rule.group.by
            for alternatives in rule.fields.specs().values():
                for spec in alternatives:
                    yield from spec.when


class Contract(StrictModel):
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
        """Name of the first table whose pattern the file's name (no folders) matches, also without its `.gz` or `.zip`."""
        names = (file_name, *(file_name.removesuffix(end) for end in (".gz", ".zip") if file_name.endswith(end)))
        return next((name for one in names for name, table in self.tables.items() if fnmatchcase(one, table.files)), None)
