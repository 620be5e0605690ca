"""The coding that says what a concept is, put first: senders list their own codes before, after or between the standard ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhir_writeback_dagster.rules.fhir.codes import PREFERRED_SYSTEMS

#: Categories that a written resource must have, by HL7; beside them senders put their own.
_CATEGORIES = frozenset(
    {
        "http://terminology.hl7.org/CodeSystem/observation-category",
        "http://terminology.hl7.org/CodeSystem/condition-category",
        "http://terminology.hl7.org/CodeSystem/condition-clinical",
        "http://terminology.hl7.org/CodeSystem/condition-ver-status",
        "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical",
        "http://terminology.hl7.org/CodeSystem/allergyintolerance-verification",
        "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation",
    }
)
_RANK = {system: rank for rank, system in enumerate(PREFERRED_SYSTEMS)} | dict.fromkeys(_CATEGORIES, 0)
_LAST = len(PREFERRED_SYSTEMS)


def standard_first(value: Any) -> Any:
    """``value`` (a resource or a part of one) with every ``coding`` and ``category`` in the order of preference.

    Codings of one system, and of systems that nothing is known of, keep the sender's order.
    """
    if isinstance(value, dict):
        return {name: _ordered(name, standard_first(part)) for name, part in value.items()}
    if isinstance(value, list):
        return [standard_first(part) for part in value]
    return value


def _ordered(name: str, value: Any) -> Any:
    if not isinstance(value, list) or len(value) < 2:
        return value
    if name == "coding":
        return sorted(value, key=_rank)
    if name == "category":
        return sorted(value, key=_rank_of_concept)
    return value


def _rank(coding: Any) -> int:
    system = coding.get("system") if isinstance(coding, Mapping) else None
    return _RANK.get(system, _LAST) if isinstance(system, str) else _LAST


def _rank_of_concept(concept: Any) -> int:
    codings = concept.get("coding") if isinstance(concept, Mapping) else None
    return min((_rank(coding) for coding in codings), default=_LAST) if isinstance(codings, list) else _LAST
