"""What a mapping's expressions may call: the filters that turn canonical parts into FHIR data types.

Each takes None for "the source did not say" and answers None; none looks at anything but its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fhir_writeback_dagster.rules.fhir.codes import concept_key
from fhir_writeback_dagster.rules.fhir.r4 import UCUM
from fhir_writeback_dagster.rules.fhir.time import instant

RecordNode = Mapping[str, Any]


def concept(value: RecordNode | None) -> dict[str, Any] | None:
    """A canonical Concept as CodeableConcept; the order of its codings stays."""
    if value is None:
        return None
    codings = [{k: v for k, v in coding.items() if v is not None} for coding in value.get("codings", ())]
    made: dict[str, Any] = {"coding": codings} if codings else {}
    if value.get("text"):
        made["text"] = value["text"]
    return made


def quantity(value: RecordNode | None) -> dict[str, Any] | None:
    """A canonical Quantity as FHIR Quantity; the value keeps its digits and its comparator, without which it is another value."""
    if value is None:
        return None
    bound = {"comparator": value["comparator"]} if value.get("comparator") else {}
    return {"value": value["value"], **bound, "unit": value["unit"], "system": UCUM, "code": value["code"]}


def reference(value: str | None) -> dict[str, Any] | None:
    """``Patient/123`` as Reference."""
    return None if value is None else {"reference": value}


def id_part(value: str | None) -> str | None:
    """``123`` of ``Patient/123``."""
    return None if value is None else value.rpartition("/")[2]


def code_key(value: RecordNode | None) -> str | None:
    """What a Concept is, for an identity: ``system|code`` of the coding that counts, or its folded text."""
    return None if value is None else concept_key(value.get("codings", ()), value.get("text"))


def token(value: RecordNode | None) -> str | None:
    """``system|value`` of an Identifier."""
    return None if value is None else f"{value['system']}|{value['value']}"


def instant_only(value: str | None) -> str | None:
    """A time that is an instant; a date has none, and FHIR's instant elements take no date."""
    return value if value is not None and instant(value) is not None else None


def array(value: Sequence[Any] | None) -> list[Any] | None:
    """A canonical tuple as JSON array."""
    return None if value is None else list(value)


FILTERS: dict[str, Callable[[Any], Any]] = {
    "array": array,
    "code_key": code_key,
    "concept": concept,
    "id_part": id_part,
    "instant": instant_only,
    "quantity": quantity,
    "reference": reference,
    "token": token,
}
