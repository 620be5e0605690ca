"""Looks into an EHR by search and compares what stands there with what was planted; our own ledger is not asked."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.sandbox.servers.ehr_client import EhrClient
from fhir_writeback_dagster.sandbox.story.expected import FactKey, Value, instant

#: Types that the write-back may create, with the elements that say when.
WRITTEN: dict[str, tuple[str, ...]] = {
    "Observation": ("effectiveDateTime",),
    "Condition": ("onsetDateTime", "recordedDate"),
    "MedicationRequest": ("authoredOn",),
    "AllergyIntolerance": ("recordedDate", "onsetDateTime"),
    "Immunization": ("occurrenceDateTime",),
    "Procedure": ("performedDateTime", "performedPeriod"),
    "DocumentReference": ("date",),
}
#: Units are compared as codes, values to this (issue 3): sources write the same weight in pounds and in kilograms.
TOLERANCE = Decimal("0.1")
_STANDARD = (
    "http://loinc.org",
    "http://snomed.info/sct",
    "http://www.nlm.nih.gov/research/umls/rxnorm",
    "http://hl7.org/fhir/sid/cvx",
)


@dataclass(frozen=True, slots=True)
class DemoFinding:
    """What the EHR holds of one tenant's write-back: counts, and each deviation from the truth as a line without values."""

    found: int
    duplicates: int
    deviations: tuple[str, ...]


def look(chart: EhrClient, identifier_system: str, facts: Mapping[FactKey, set[Value]]) -> DemoFinding:
    """Search every resource that bears an identifier of ``identifier_system`` and hold it against ``facts``."""
    resources = [r for kind in WRITTEN for r in chart.search(kind, identifier=f"{identifier_system}|")]
    keys = Counter(
        (r["resourceType"], i["value"]) for r in resources for i in r["identifier"] if i.get("system") == identifier_system
    )
    return DemoFinding(len(resources), sum(times - 1 for times in keys.values()), tuple(_deviations(resources, facts)))


def versions(chart: EhrClient) -> int:
    """Versions of everything that the write-back could touch; it rises with every write, whoever made it."""
    return sum(chart.versions(kind) for kind in (*WRITTEN, "Patient"))


def _deviations(resources: Iterable[Resource], facts: Mapping[FactKey, set[Value]]) -> Iterator[str]:
    stand: dict[FactKey, list[Value]] = {}
    for resource in resources:
        stand.setdefault(fact_of(resource), []).append(value_of(resource))
    for key in facts.keys() - stand.keys():
        yield f"missing: {_name(key)}"
    for key, values in stand.items():
        if key not in facts:
            yield f"not planned: {_name(key)}"
        elif len(values) > 1:
            yield f"{len(values)} times: {_name(key)}"
        elif not any(agree(values[0], right) for right in facts[key]):
            yield f"another value: {_name(key)}"


def _name(key: FactKey) -> str:
    return f"{key.resource_type} {key.code} at {key.when} of {key.chart_id}"


def fact_of(resource: Resource) -> FactKey:
    """Which fact a resource tells."""
    kind = resource["resourceType"]
    subject = resource.get("subject") or resource.get("patient") or {}
    times = (resource.get(element) for element in WRITTEN[kind])
    when = next((t["start"] if isinstance(t, dict) else t for t in times if t), "")
    return FactKey(kind, str(subject.get("reference", "")).removeprefix("Patient/"), _code(resource), moment(str(when)))


def moment(text: str) -> str:
    """A FHIR dateTime with a time as UTC instant; a date as it stands."""
    return instant(datetime.fromisoformat(text)) if "T" in text else text


def _code(resource: Resource) -> str:
    elements = ("code", "type", "vaccineCode", "medicationCodeableConcept")
    concept: dict[str, Any] = next((resource[e] for e in elements if e in resource), {})
    return next((str(c["code"]) for c in concept.get("coding", []) if c.get("system") in _STANDARD), "")


def value_of(resource: Resource) -> Value:
    """What a resource says: its quantity, those of its components, or the hash of its document."""
    if resource["resourceType"] == "DocumentReference":
        data = base64.b64decode(resource["content"][0]["attachment"]["data"])
        return Value(((_code(resource), hashlib.sha256(data).hexdigest(), ""),))
    parts = [part for part in (resource, *resource.get("component", [])) if "valueQuantity" in part]
    return Value(
        tuple((_code(p), Decimal(str(p["valueQuantity"]["value"])), str(p["valueQuantity"].get("code", ""))) for p in parts)
    )


def agree(stands: Value, right: Value) -> bool:
    """The same codes and units, texts equal, numbers within 0.1; the order of components does not matter."""
    if len(stands.parts) != len(right.parts):
        return False
    return all(
        one[0] == other[0]
        and one[2] == other[2]
        and (
            abs(one[1] - other[1]) <= TOLERANCE
            if isinstance(one[1], Decimal) and isinstance(other[1], Decimal)
            else one[1] == other[1]
        )
        for one, other in zip(sorted(stands.parts, key=str), sorted(right.parts, key=str), strict=True)
    )
