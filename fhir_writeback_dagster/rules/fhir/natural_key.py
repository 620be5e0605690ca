"""The natural key of a resource: type, code and time. It finds a fact in the chart that does not bear our identifier.

A second locator, never an identity: a lab interface may have filed the result already, an EHR may drop foreign identifiers
(vendor-facts: Epic, Oracle). The patient is not in it, since every look-up is within one patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fhir_writeback_dagster.rules.fhir.codes import concept_key, tokens
from fhir_writeback_dagster.rules.fhir.resource import ReadResource
from fhir_writeback_dagster.rules.fhir.time import instant, normalise


@dataclass(frozen=True, slots=True)
class _Form:
    concept: str
    times: tuple[str, ...] = ()
    """Elements that may hold the time, the first that is there counts; none: an allergy is one whenever it began."""
    by_day: bool = False
    """One such fact a day as written, whatever the hour: EHRs and extracts differ in whether they keep it."""
    timeless: bool = False
    """The time may be missing."""


_FORMS = {
    "AllergyIntolerance": _Form("code", timeless=True),
    "Condition": _Form("code", ("onsetDateTime", "onsetPeriod", "recordedDate"), by_day=True, timeless=True),
    "DocumentReference": _Form("type", ("date", "context.period")),
    "Immunization": _Form("vaccineCode", ("occurrenceDateTime",), by_day=True),
    "MedicationRequest": _Form("medicationCodeableConcept", ("authoredOn",)),
    "Observation": _Form("code", ("effectiveDateTime", "effectiveInstant", "effectivePeriod")),
    "Procedure": _Form("code", ("performedDateTime", "performedPeriod")),
}


def _time(resource: ReadResource, form: _Form) -> str | None:
    for name in form.times:
        value: Any = resource
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        value = value.get("start") if isinstance(value, Mapping) else value
        if isinstance(value, str):
            return value
    return None


def natural_key(resource: ReadResource) -> tuple[str, ...] | None:
    """``(type, system|code, time)`` of one of our payloads or of a chart resource; None where it has none (Patient).

    Instants are UTC to the second; where a fact is one a day (Condition, Immunization), the date as written.
    """
    form = _FORMS.get(resource.get("resourceType", ""))
    if form is None:
        return None
    concept = resource.get(form.concept) or {}
    code = concept_key(concept.get("coding", ()), concept.get("text"))
    time = _time(resource, form)
    if code is None or (time is None and not form.timeless):
        return None
    when = "" if time is None else time[:10] if form.by_day else normalise(time, "second")
    return resource["resourceType"], code, when


def _wider(resource: ReadResource) -> Iterator[tuple[str, ...]]:
    """Every key that the resource could be known by: each of its codings, its time also by the day."""
    form = _FORMS[resource["resourceType"]]
    concept = resource.get(form.concept) or {}
    codes = set(tokens(concept.get("coding", ())))
    own = concept_key(concept.get("coding", ()), concept.get("text"))
    time = _time(resource, form)
    times = {""} if time is None else {normalise(time, "second"), time[:10]}
    if time is not None and instant(time) is not None:
        times.add(normalise(time, "day"))
    return ((resource["resourceType"], code, when) for code in codes | {own or ""} for when in times)


def same_fact(ours: ReadResource, theirs: ReadResource) -> bool:
    """Could both tell of one fact of one patient? Codings may be more on one side, and a time may be a date there.

    Two instants of one day are two facts; an instant and a date of that day may be one.
    """
    mine, other = natural_key(ours), natural_key(theirs)
    if mine is None or other is None or mine[0] != other[0]:
        return False
    if mine == other:
        return True
    return mine in set(_wider(theirs)) or other in set(_wider(ours))
