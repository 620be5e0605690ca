"""Synthea's own FHIR resources as oracle: what it wrote as FHIR against what our chain wrote from its CSV of the same facts.

Not part of the product. The CSV is in UTC and the FHIR in local offset, so instants are compared; QALY, DALY and QOLS have no
twin; survey answers stand in one PRAPARE Observation in FHIR and in a row each in the CSV.
"""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

Resource = dict[str, Any]

KINDS = ("Observation", "Condition", "MedicationRequest", "AllergyIntolerance", "Immunization", "Procedure")
_TIMES = ("effectiveDateTime", "onsetDateTime", "authoredOn", "occurrenceDateTime", "recordedDate", "performedDateTime")
_TOLERANCE = Decimal("0.1")
#: Synthea's FHIR export keeps five significant digits: an income of 191395 is 191400 there.
_PRECISION = Context(prec=5)
#: What Synthea calls UCUM and UCUM does not know, and what it is there (ucum.org, "acidity").
_UCUM = {"pH": "[pH]"}


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact, comparable across spellings. ``times`` holds every reading of its time: the instant in UTC, and dates."""

    kind: str
    patient: str
    code: str
    times: frozenset[str]
    encounter: str
    status: str
    value: Decimal | None = None
    unit: str = ""
    texts: frozenset[str] = frozenset()


@dataclass(slots=True)
class Comparison:
    """Counts by kind, and what differs: (kind, field) → how often, with one fact as example."""

    written: Counter[str] = field(default_factory=Counter)
    agreeing: Counter[str] = field(default_factory=Counter)
    without_twin: Counter[tuple[str, str]] = field(default_factory=Counter)
    differing: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], tuple[Fact, Fact]] = field(default_factory=dict)
    unwritten: Counter[tuple[str, str]] = field(default_factory=Counter)

    def table(self) -> str:
        lines = [f"{'kind':<20}{'facts written':>14}{'agree':>8}{'differ':>8}{'no twin':>9}{'twin unwritten':>16}"]
        for kind in KINDS:
            differ = self.written[kind] - self.agreeing[kind] - sum(n for (k, _), n in self.without_twin.items() if k == kind)
            alone = sum(n for (k, _), n in self.without_twin.items() if k == kind)
            missing = sum(n for (k, _), n in self.unwritten.items() if k == kind)
            lines.append(f"{kind:<20}{self.written[kind]:>14}{self.agreeing[kind]:>8}{differ:>8}{alone:>9}{missing:>16}")
        lines += [f"differs: {kind}.{name}: {n}, e.g. {self.examples[kind, name]}" for (kind, name), n in self.differing.items()]
        lines += [f"no twin: {kind} {code}: {n}" for (kind, code), n in self.without_twin.items()]
        lines += [f"not written: {kind} {code}: {n}" for (kind, code), n in self.unwritten.items()]
        return "\n".join(lines)


def bundles(folder: Path) -> dict[str, list[Resource]]:
    """Every FHIR resource of the run, by type."""
    found: dict[str, list[Resource]] = defaultdict(list)
    for path in sorted((folder / "fhir").glob("*.json")):
        for entry in json.loads(path.read_bytes(), parse_float=Decimal)["entry"]:
            found[entry["resource"]["resourceType"]].append(entry["resource"])
    return found


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def chart(folder: Path) -> list[Resource]:
    """Patients and encounters to load before: from the bundles, and for the deceased, who has no bundle, from the CSV."""
    twins = bundles(folder)
    keep = ("resourceType", "id", "identifier", "name", "gender", "birthDate", "deceasedDateTime")
    patients = [{k: p[k] for k in keep if k in p} for p in twins["Patient"]]
    known = {p["id"] for p in patients}
    patients += [_patient(row) for row in rows(folder, "patients") if row["Id"] not in known]
    encounters = [
        {k: e[k] for k in ("resourceType", "id", "identifier", "status", "class", "period")}
        | {"subject": {"reference": f"Patient/{_id(e['subject'])}"}}
        for e in twins["Encounter"]
    ]
    there = {e["id"] for e in encounters}
    encounters += [_encounter(row) for row in rows(folder, "encounters") if row["Id"] not in there]
    return patients + encounters


def _patient(row: dict[str, str]) -> Resource:
    death = {"deceasedDateTime": row["DEATHDATE"]} if row["DEATHDATE"] else {}
    return {
        "resourceType": "Patient",
        "id": row["Id"],
        "identifier": [{"system": "https://github.com/synthetichealth/synthea", "value": row["Id"]}],
        "name": [{"use": "official", "family": row["LAST"], "given": [row["FIRST"]]}],
        "gender": {"F": "female", "M": "male"}[row["GENDER"]],
        "birthDate": row["BIRTHDATE"],
    } | death


def _encounter(row: dict[str, str]) -> Resource:
    return {
        "resourceType": "Encounter",
        "id": row["Id"],
        "identifier": [{"system": "https://github.com/synthetichealth/synthea", "value": row["Id"]}],
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        "subject": {"reference": f"Patient/{row['PATIENT']}"},
        "period": {"start": row["START"], "end": row["STOP"]},
    }


def compare(written: Iterable[Resource], twins: dict[str, list[Resource]]) -> Comparison:
    """Hold every written resource against its twin; several facts of one key are paired as well as they go."""
    medications = {m["id"]: m for m in twins.get("Medication", [])}
    oracle: dict[tuple[str, str, str], list[Fact]] = defaultdict(list)
    for kind in KINDS:
        for resource in twins[kind]:
            for fact in facts(resource, medications):
                oracle[kind, fact.patient, fact.code].append(fact)
    result = Comparison()
    for resource in written:
        for fact in facts(resource, medications):
            result.written[fact.kind] += 1
            candidates = [t for t in oracle[fact.kind, fact.patient, fact.code] if t.times & fact.times]
            if not candidates:
                result.without_twin[fact.kind, fact.code] += 1
                continue
            twin = min(candidates, key=lambda t: len(_differences(fact, t)))
            oracle[fact.kind, fact.patient, fact.code].remove(twin)
            differences = _differences(fact, twin)
            result.agreeing[fact.kind] += not differences
            for name in differences:
                result.differing[fact.kind, name] += 1
                result.examples.setdefault((fact.kind, name), (fact, twin))
    for (kind, _, code), left in oracle.items():
        if left:
            result.unwritten[kind, code] += len(left)
    return result


def _differences(ours: Fact, twin: Fact) -> list[str]:
    found = [name for name in ("encounter", "status", "unit") if getattr(ours, name) != getattr(twin, name)]
    if (ours.value is None) != (twin.value is None) or (
        ours.value is not None
        and twin.value is not None
        and min(abs(ours.value - twin.value), abs(_PRECISION.plus(ours.value) - twin.value)) > _TOLERANCE
    ):
        found.append("value")
    if bool(ours.texts) != bool(twin.texts) or (ours.texts and not ours.texts & twin.texts):
        found.append("text")
    return found


def facts(resource: Resource, medications: dict[str, Resource]) -> Iterator[Fact]:
    """The facts of one resource: itself, or each component of a panel that has no value of its own."""
    kind = resource["resourceType"]
    common = {
        "kind": kind,
        "patient": _id(resource.get("subject") or resource["patient"]),
        "times": _times(resource),
        # AllergyIntolerance.encounter exists in R4; Synthea leaves it out, and so it is not compared.
        "encounter": "" if kind == "AllergyIntolerance" else _id(resource.get("encounter") or {}),
        "status": _status(resource),
    }
    for part in resource.get("component") or [resource]:
        concept = part.get("code") or part.get("vaccineCode") or part.get("medicationCodeableConcept")
        if concept is None:
            concept = medications[_id(part["medicationReference"])]["code"]
        quantity = part.get("valueQuantity") or {}
        answer = part.get("valueCodeableConcept") or {}
        texts = {answer.get("text"), part.get("valueString"), *(c.get("display") for c in answer.get("coding", []))}
        yield Fact(
            **common,
            code=concept["coding"][0]["code"],
            value=Decimal(str(quantity["value"])) if quantity else None,
            unit=_UCUM.get(code := quantity.get("code", ""), code),
            texts=frozenset(_plain(str(t)) for t in texts if t),
        )


def _plain(text: str) -> str:
    """Synthea's CSV export drops commas from texts: `100,000` is `100 000` or `100000` there."""
    return "".join(text.replace(",", " ").split())


def _id(reference: Resource) -> str:
    return str(reference.get("reference", "")).rsplit("/", 1)[-1].removeprefix("urn:uuid:")


def _times(resource: Resource) -> frozenset[str]:
    text = next((resource[e] for e in _TIMES if e in resource), None) or resource["performedPeriod"]["start"]
    if "T" not in text:
        return frozenset({text})
    local = datetime.fromisoformat(text)
    utc = local.astimezone(UTC)
    moments = {utc.strftime("%Y-%m-%dT%H:%M:%SZ")}
    # A condition of the CSV has a day only; which zone's day it is, Synthea does not say.
    return frozenset(
        moments | ({local.date().isoformat(), utc.date().isoformat()} if resource["resourceType"] in _DAYS else set())
    )


_DAYS = ("Condition", "AllergyIntolerance")


def _status(resource: Resource) -> str:
    if "status" in resource:
        return str(resource["status"])
    return str(resource["clinicalStatus"]["coding"][0]["code"]) if "clinicalStatus" in resource else ""
