"""``fhir-writeback source sketch FILE…``: a contract proposed from sample files, with what it cannot know as questions.

What is proposed is a contract that loads: every guess stands behind a comment that says what it rests on, and what nobody can see
in a file (whose numbers these are, which clock they are on, which row of the source a row is) is a line that begins with ``# ?``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import yaml

from fhir_writeback_dagster.config import settings
from fhir_writeback_dagster.config.tenants import Tenant, load_tenant
from fhir_writeback_dagster.ingest.commands.guesses import (
    DATED_AT,
    Guess,
    guess_columns,
    is_date,
    orders,
    role_of_name,
    writes,
)
from fhir_writeback_dagster.ingest.commands.profile import ColumnProfile, TableProfile, profile_file, together
from fhir_writeback_dagster.rules.fhir import code_systems
from fhir_writeback_dagster.rules.fhir.loinc import loinc_terms


def sketch(profiles: Sequence[TableProfile], source: str, tenant: Tenant | None = None) -> str:
    """The text of a contract for these tables."""
    lines = [
        f"# Proposed by `fhir-writeback source sketch` from {sum(p.rows for p in profiles)} rows. What is a guess says so, and a",
        "# question begins with `# ?`. Try it as it stands: fhir-writeback source check FILE --contract THIS_FILE",
        f"source: {source}",
        "version: 1",
    ]
    if tenant is None:
        lines.append("# ? On which clock are times without an offset? Left out, they are in the tenant's time zone.")
    else:
        lines.append(f"# ? Are times without an offset in {tenant.time_zone}, the zone of {tenant.tenant}? Else say which:")
    lines += ["# time_zone: America/New_York", "tables:"]
    for profile in profiles:
        lines += ["", *(f"  {line}" if line else "" for line in _table(profile))]
    lines += ["", *_use(profiles, source, tenant)]
    return "\n".join(lines) + "\n"


def _table(profile: TableProfile) -> Iterator[str]:
    yield f"{_word(profile.name)}:"
    for line in _body(profile):
        yield f"  {line}" if line else ""


def _body(profile: TableProfile) -> Iterator[str]:
    yield f"files: {_quoted(profile.files)}"
    yield f"format: {profile.format}"
    if profile.encoding != "utf-8":
        yield f"encoding: {profile.encoding}"
    if profile.delimiter != ",":
        yield f"delimiter: {_quoted(profile.delimiter)}"
    for name, said in profile.options.items():
        yield f"{name}: {_quoted(said) if isinstance(said, str) else said}   # without it the file cannot be read"
    if profile.broken:
        yield f'# ? {profile.broken} lines are no rows. A footer of every file? Then declare it: footer: ["Total*"]'
    if not profile.final_newline:
        yield "# ? The last line has no line end. Is every file like that? Then a cut file is not seen without a manifest."
        yield "final_newline: optional"
    if profile.format == "fhir":
        yield "# FHIR resources: start from mappings/sources/fhir_agent, which declares the elements that are read."
        yield "columns: {resourceType: operational}"
        yield "rows: [{not_written: undecided}]"
        return
    nulls = sorted({word for column in profile.columns for word in column.null_words})
    if nulls:
        yield f"nulls: [{', '.join(map(_quoted, ['', *nulls]))}]   # words that say there is nothing"
    guess = guess_columns(profile)
    yield "columns:"
    for column in profile.columns:
        yield f"  {_word(column.name)}: {_role(column, guess)}   # {_seen(column, guess)}"
    yield from _whose(guess)
    yield from _identity(guess)
    yield from _rules(guess)


def _fields_of(guess: Guess) -> frozenset[str]:
    """Roles that the proposed rules read."""
    roles = {"patient", "encounter", "birth_date", "sex", "family", "given", "as_of"}
    if guess.kind is None or "patient" not in guess.of:
        return frozenset(roles if "patient" in guess.of else ())
    roles |= {"code", "display"}
    if guess.kind in {"vital_sign", "lab_result", "observation"}:
        roles |= {"value", "unit"}
    if guess.kind in {"condition", "procedure", "medication_request", "allergy"}:
        roles |= {"end"}
    return frozenset(roles)


def _role(column: ColumnProfile, guess: Guess) -> str:
    role = next((name for name, one in guess.of.items() if one is column), None)
    if guess.dates and column is guess.dates[0]:
        return "chart" if writes(guess) else "operational"
    if role is None or role not in _fields_of(guess):
        return "operational" if role in {"row", "as_of"} else "source_only"
    if role in {"code", "display", "value", "unit", "end"} and not writes(guess):
        return "source_only"
    if role == "display" and "code" not in guess.of:
        return "source_only"
    return "operational" if role == "as_of" else "chart"


def _seen(column: ColumnProfile, guess: Guess) -> str:
    """What was seen in a column, without a value of a patient."""
    if column.filled == 0:
        return "empty in the sample"
    parts = [f"{column.filled} of {column.rows} filled, {column.distinct} different"]
    if column.unique:
        parts.append("names each row")
    if is_date(column):
        parts.append("dates")
    elif column.numbers >= 0.8:
        parts.append("numbers with a decimal comma" if column.decimal_comma else "numbers")
    if column is guess.of.get("code") and column.systems:
        parts.append("can be " + " or ".join(_SHORT.get(system, system) for system in column.systems[:3]))
    if column is guess.of.get("unit"):
        parts.append("units")
    if column.cast:
        parts.append(f"{column.cast} made by a float column: ask for text")
    return ", ".join(parts)


_SHORT = {
    code_systems.LOINC: "LOINC", code_systems.SNOMED: "SNOMED CT", code_systems.ICD_10_CM: "ICD-10-CM",
    code_systems.ICD_9_CM: "ICD-9-CM", code_systems.RXNORM: "RxNorm", code_systems.CVX: "CVX", code_systems.NDC: "NDC",
    code_systems.CPT: "CPT",
}  # fmt: skip


def _whose(guess: Guess) -> Iterator[str]:
    patient = guess.of.get("patient")
    if patient is None:
        yield "# ? Whose are these rows? No column looks like a patient's identifier:"
        yield "# patient: {identifiers: [{column: MRN, name: mrn}]}"
        return
    yield "# ? Whose number is this? `mrn` gets its system from the tenant's sources.<source>.patient_systems."
    yield "patient:"
    yield f"  identifiers: [{{column: {_word(patient.name)}, name: mrn}}]"
    for role in ("family", "given", "birth_date", "sex"):
        if role not in guess.of:
            continue
        column = guess.of[role]
        if role == "birth_date":
            yield f"  birth_date: {_date(column)}"
        elif role == "sex":
            words = {word: _SEXES.get(word.casefold(), "unknown") for word in column.words} or {"F": "female", "M": "male"}
            values = ", ".join(f"{_quoted(word)}: {sex}" for word, sex in words.items())
            yield f"  sex: {{column: {_word(column.name)}, values: {{{values}}}}}"
        else:
            yield f"  {role}: {{column: {_word(column.name)}}}"
    if "encounter" in guess.of:
        yield "# ? Which system are the encounter's numbers of?"
        yield f'encounter: [{{column: {_word(guess.of["encounter"].name)}, system: "urn:x:encounter"}}]'


_SEXES = {
    "m": "male", "f": "female", "male": "male", "female": "female", "man": "male", "woman": "female", "o": "other",
    "other": "other",
}  # fmt: skip


def _identity(guess: Guess) -> Iterator[str]:
    if not writes(guess):
        return
    row = guess.of.get("row")
    if row is not None and row.unique:
        yield "# ? Does the source keep this number when it corrects the row? Then a correction is seen as one."
        yield f"identity: [{_word(row.name)}]"
    else:
        names = [guess.of[name].name for name in ("patient", "encounter", "code") if name in guess.of] + [guess.dates[0].name]
        yield "# ? Which columns say which row of the source this is? A number of its own would be better."
        yield f"identity: [{', '.join(map(_word, names))}]"
    if "as_of" in guess.of:
        yield f"as_of: {_date(guess.of['as_of'])}"
    else:
        yield "# ? Does a column order two versions of one row? Then: as_of: {column: …}"


def _date(column: ColumnProfile) -> str:
    found = orders(column)
    order = f", order: {found[0]}" if found and None not in found else ""
    return f"{{column: {_word(column.name)}{order}}}"


def _rules(guess: Guess) -> Iterator[str]:
    if guess.measured:
        names = ", ".join(c.name for c in guess.measured)
        yield f"# ? A wide table: {names} hold a measurement each. One row is one record: deliver it in long form."
    for column in guess.others:
        yield f"# ? What does {column.name} say? It stays with the row, sealed, and is not written."
    if not writes(guess):
        yield "# ? What are these rows? No rule could be guessed: it takes a patient, a date, a code and, for results, a value."
        yield "rows:"
        yield "  - not_written: undecided"
        return
    yield "rows:"
    yield f"  - kind: {guess.kind}   # a guess"
    yield "    fields:"
    for line in _fields(guess):
        yield f"      {line}"


def _fields(guess: Guess) -> Iterator[str]:
    kind, code = str(guess.kind), guess.of["code"]
    first = guess.dates[0]
    found = orders(first)
    if None not in found and len(found) > 1:
        yield f"# ? {' or '.join(str(one) for one in found)}? Every date of the sample fits: ask the source."
    yield f"{DATED_AT[kind]}: {_date(first)}"
    display = f", display: {_word(guess.of['display'].name)}" if "display" in guess.of else ""
    if guess.system is not None:
        yield f'code: {{column: {_word(code.name)}, system: "{guess.system}"{display}}}'
    else:
        yield "# ? Local codes? Then write a ConceptMap mappings/concepts/NAME.json and name it: concept_map: NAME"
        yield f'code: {{column: {_word(code.name)}, system: "urn:x:local-codes"{display}}}'
    if "value" in guess.of and kind in {"vital_sign", "lab_result", "observation"}:
        yield from _quantity(guess)
    yield from _rest(guess, kind)


def _quantity(guess: Guess) -> Iterator[str]:
    value, unit = guess.of["value"], guess.of.get("unit")
    if value.numbers < 1:
        yield f"# ? {(1 - value.numbers):.0%} of {value.name} are no numbers: rows with text need a rule of their own."
    mark = ', decimal_mark: ","' if value.decimal_comma else ""
    if unit is None:
        yield "# ? In which unit? Nothing in the file says it."
        usual = next((t.units[0] for c in guess.of["code"].loinc if (t := loinc_terms().get(c)) is not None), "1")
        yield f"quantity: {{column: {_word(value.name)}, unit: {_quoted(usual)}{mark}}}"
        return
    unread = [text for text, code in unit.units.items() if code is None]
    if unread:
        yield f"# ? No unit that we know, or several: {', '.join(map(_quoted, unread[:8]))}"
    repaired = [f"{text} as {code}" for text, code in unit.units.items() if code is not None and code != text]
    if repaired:
        yield f"# read: {', '.join(repaired[:8])}"
    yield f"quantity: {{column: {_word(value.name)}, unit_column: {_word(unit.name)}{mark}}}"


def _rest(guess: Guess, kind: str) -> Iterator[str]:
    end = guess.of.get("end")
    name = {"condition": "abatement", "procedure": "end", "medication_request": "ended", "allergy": "ended"}.get(kind)
    if end is not None and name is not None:
        yield f"{name}: {_date(end)}"
    if kind == "condition":
        yield "# ? Is every row a confirmed problem?"
        yield "verification_status: {constant: confirmed}"
        yield from (
            [f"clinical_status: [{{constant: resolved, when: {{{_word(end.name)}: present}}}}, {{constant: active}}]"]
            if end is not None
            else ["clinical_status: {constant: active}"]
        )
    if kind == "medication_request":
        yield "# ? An end says that an order ended, not why: `unknown` until the source says it."
        yield from (
            [
                "status:",
                f"  - {{choice: ended_order, words: [unknown, completed, stopped], when: {{{_word(end.name)}: present}}}}",
                "  - {constant: active}",
            ]
            if end is not None
            else ["status: {constant: unknown}"]
        )


def _use(profiles: Sequence[TableProfile], source: str, tenant: Tenant | None) -> Iterator[str]:
    name = tenant.tenant if tenant is not None else "TENANT"
    yield f"# In tenants/{name}.yaml, below `sources`:"
    yield f"#   {source}:"
    yield "#     version: 1"
    yield f"#     landing: landing/{name}/{source}"
    known = [system for use in tenant.sources.values() for system in use.patient_systems.values()] if tenant is not None else []
    system = known[0] if known else "urn:oid:…"
    if any(role_of_name(column) == "patient" for profile in profiles for column in profile.columns):
        yield (
            f"#     patient_systems: {{mrn: {_quoted(system)}}}   # ? is it this one?"
            if known
            else (f"#     patient_systems: {{mrn: {_quoted(system)}}}")
        )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t") + '"'


def _word(name: str) -> str:
    """A YAML key or scalar, quoted where plain would be read as something else."""
    try:
        plain = yaml.safe_load(f"{{{name}: 1}}") == {name: 1} and ": " not in name
    except yaml.YAMLError:
        plain = False
    return name if plain and re.fullmatch(r"[A-Za-z][\w .-]*", name) else _quoted(name)


@click.command("sketch")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE…")
@click.option("--source", help="The source's name; default: the first file's.")
@click.option("--tenant", help="A tenant of this project, whose time zone and identifier systems are proposed.")
def sketch_command(files: tuple[Path, ...], *, source: str | None, tenant: str | None) -> None:
    """Propose a contract for sample files, as YAML on stdout: what is seen, what is guessed, and what only you can say.

    Needs no database. The proposal names columns, units and words of small vocabularies, and no identifier or free text.
    """
    profiles = together(profile_file(path) for path in files)
    of_tenant = load_tenant(settings.home() / "tenants", tenant) if tenant is not None else None
    click.echo(sketch(profiles, source or profiles[0].name.replace("_", "-").strip("-") or "source", of_tenant), nl=False)
