"""One value at a time: a text and what the contract says of it → a canonical value, or the problem that it is."""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from fhir_writeback_dagster.canonical import Coding, Comparator, Concept, Identifier, Quantity
from fhir_writeback_dagster.ingest.contracts.concept_maps import ConceptMap
from fhir_writeback_dagster.ingest.contracts.fields import COMPARATORS, ConceptFrom, ContentFrom, IdentifierFrom, QuantityFrom
from fhir_writeback_dagster.ingest.problems import Problem
from fhir_writeback_dagster.rules.fhir import unit_conversion
from fhir_writeback_dagster.rules.fhir.code_systems import code_of, is_cast_number, is_null_word
from fhir_writeback_dagster.rules.fhir.loinc import LoincTerm
from fhir_writeback_dagster.rules.fhir.unit_reading import UnreadableUnit, read_unit

_DECIMAL = re.compile(r"[+-]?(\d{1,20}(\.\d{1,20})?|\.\d{1,20})([eE][+-]?\d{1,2})?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
#: A bound is rounded outwards, or it would say more than was measured. No factor between units is negative: it keeps its side.
_ROUNDINGS: dict[str | None, Callable[[Fraction], int]] = {"<": math.ceil, "<=": math.ceil, ">=": math.floor, ">": math.floor}
_CODE = re.compile(r"\S+( \S+)*")  # FHIR R4 datatypes, code


#: Rule, what was written, and what it was read as.
Note = tuple[Literal["unit", "valence", "code"], str, str]


@dataclass(frozen=True, slots=True)
class Repaired:
    """A value that the source wrote in another way than its one meaning is written."""

    value: Any
    notes: tuple[Note, ...]


def unwrapped(values: Iterable[Any]) -> tuple[list[Any], tuple[Note, ...]]:
    """The values themselves, and the notes of those that were repaired."""
    plain: list[Any] = []
    notes: list[Note] = []
    for value in values:
        plain.append(value.value if isinstance(value, Repaired) else value)
        notes += value.notes if isinstance(value, Repaired) else ()
    return plain, tuple(dict.fromkeys(notes))


#: What servers of US Core promise to take inline (US Core, Writing Clinical Notes: 5 MB); of the bytes, before base64.
MAX_DOCUMENT = 5_000_000


@dataclass(frozen=True, slots=True)
class Content:
    """A document's bytes in base64, their SHA-256 in hex, and what they are: text in UTF-8 or a PDF."""

    data: str
    sha256: str
    content_type: str


def put_together(model: type[Any], **parts: Any) -> Any:
    """The model, or the first problem of its parts; a part that the model cannot hold is a problem too."""
    plain, notes = unwrapped(parts.values())
    for part in plain:
        if isinstance(part, Problem):
            return part
    try:
        made = model(**dict(zip(parts, plain, strict=True)))
        return Repaired(made, notes) if notes else made
    except ValidationError as error:
        return Problem("unknown_value", str(error.errors(include_url=False, include_input=False)[0]["loc"][0]))


class Measured(NamedTuple):
    """What a row says of one quantity: the number's text, its unit, what a column of comparators says, and the LOINC term."""

    text: str | None
    unit: str | None
    sign: str | None = None
    term: LoincTerm | None = None


def quantity(spec: QuantityFrom, signs: Mapping[str, Comparator], said: Measured) -> Quantity | Problem | Repaired | None:
    """:param signs: what may stand before the number, with the FHIR comparator that it is."""
    text, sign = said.text, said.sign
    if text is None:
        return None
    column = spec.column
    if sign is None:
        sign, text = _signed(text, signs)
    else:  # then none stands before the number
        column = spec.comparator_column or column
    if spec.decimal_mark == ",":
        text = text.replace(",", ".") if "." not in text else ""
    if not _DECIMAL.fullmatch(text):
        return Problem("bad_decimal", spec.column)
    if sign is not None and sign not in signs:
        return Problem("comparator_not_allowed" if sign in COMPARATORS else "unknown_comparator", column)
    value, comparator = Decimal(text), None if sign is None else signs[sign]
    unit, term = said.unit or "", said.term
    try:
        read = read_unit(unit, term.units, term.valence) if term else read_unit(unit)
        code = read.code
        if read.scale != 1:
            value = value * read.scale.numerator / read.scale.denominator
        if spec.units and code not in spec.units:
            value, code = _converted(spec, value, code, comparator)
    except UnreadableUnit as error:
        return Problem(error.reason, spec.unit_column or spec.column)
    except unit_conversion.NotComparableError:
        return Problem("unit_not_comparable", spec.unit_column or spec.column)
    made = Quantity(value=value, comparator=comparator, unit=code, code=code)
    if not read.repaired:
        return made
    return Repaired(made, (("unit" if read.scale == 1 else "valence", unit, read.code),))


def _signed(text: str, signs: Collection[str]) -> tuple[str | None, str]:
    """What stands before the number, and the number; no sign begins as a number does (:data:`~.fields.Sign`)."""
    if text[:1] in "+-.0123456789":
        return None, text
    sign = next((one for one in sorted({*signs, *COMPARATORS}, key=len, reverse=True) if text.startswith(one)), "")
    return sign or None, text[len(sign) :].lstrip()


def _converted(spec: QuantityFrom, value: Decimal, code: str, comparator: Comparator | None) -> tuple[Decimal, str]:
    for target in spec.units:
        try:
            return unit_conversion.convert(value, code, target, spec.decimals, _ROUNDINGS.get(comparator, round)), target
        except unit_conversion.NotComparableError:
            continue
    raise unit_conversion.NotComparableError


def concept(
    spec: ConceptFrom, concept_map: ConceptMap | None, code: str | None, system: str | None, display: str | None, text: str | None
) -> Concept | Problem | Repaired | None:
    code = spec.code if spec.column is None else code
    display, text = (None if word is not None and is_null_word(word) else word for word in (display, text))
    if code is None:
        return Concept(text=text) if text is not None and spec.column is None else None
    column = spec.column or "code"
    if concept_map is not None:
        return _mapped(spec, concept_map, code, display, text)
    if is_null_word(code):
        return None
    if not _CODE.fullmatch(code):
        return Problem("bad_code", column)
    uri = spec.system if spec.systems is None else spec.systems.get(system or "")
    if uri is None:
        return Problem("unknown_code_system", spec.system_column or column)
    read = code_of(uri, code)
    if read is None:
        return Problem("bad_code", column)
    made = Concept(codings=(Coding(system=uri, code=read, display=display),), text=text)
    return made if read == code else Repaired(made, (("code", code, read),))


def _mapped(
    spec: ConceptFrom, concept_map: ConceptMap, code: str, display: str | None, text: str | None
) -> Concept | Problem | None:
    """A local code; a word for "nothing" is one where the map has it."""
    codings = concept_map.codings.get(" ".join(code.split()))
    if codings is None:
        if is_null_word(code):
            return None
        return Concept(text=text or code) if spec.unmapped == "text" else Problem("unmapped_code", spec.column or "code")
    if not spec.keep_local:
        return Concept(codings=codings[:-1], text=text)
    own = codings[-1].model_copy(update={"display": display}) if display else codings[-1]
    return Concept(codings=(*codings[:-1], own), text=text)


def identifier(spec: IdentifierFrom, system: str | None, text: str | None) -> Identifier | Problem | None:
    """An identifier of ``system``; None where the row says none."""
    if system is None or text is None:
        return None
    if not spec.any_text:
        if is_null_word(text):
            return None
        if is_cast_number(text):
            return Problem("bad_identifier", spec.column)
    return Identifier(system=system, value=text)


def content(spec: ContentFrom, text: str) -> Content | Problem:
    if spec.encoded == "text":
        raw = text.encode()
    else:
        try:
            raw = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            return Problem("bad_base64", spec.column)
    if len(raw) > MAX_DOCUMENT:
        return Problem("document_too_large", spec.column)
    kind = _content_type(raw)
    if kind is None:
        return Problem("bad_document", spec.column)
    return Content(base64.b64encode(raw).decode(), hashlib.sha256(raw).hexdigest(), kind)


def _content_type(raw: bytes) -> str | None:
    """What the bytes are; None for a cut PDF, and for what is neither a PDF nor text that says anything."""
    if raw.startswith(b"%PDF-"):
        return "application/pdf" if b"%%EOF" in raw[-1024:] else None  # PDF 1.7, 7.5.5: the trailer is within the last KiB
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    return "text/plain" if text.strip() and not _CONTROL.search(text) else None
