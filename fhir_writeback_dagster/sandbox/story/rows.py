"""Rows of the demo's sources, each with the end that it must come to and the fact that it must leave in the EHR."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from random import Random
from typing import Any

from fhir_writeback_dagster.sandbox.story.expected import End, FactKey, Planted, Value, instant
from fhir_writeback_dagster.sandbox.story.hospitals import Hospital, StoryPatient
from fhir_writeback_dagster.sandbox.story.vocabulary import (
    BLOOD_PRESSURE,
    DIASTOLIC,
    PROGRESS_NOTE,
    SYSTOLIC,
    TEMPERATURE,
    WEIGHT,
    Measure,
)

_TENTH = Decimal("0.1")
_SAYS_NO_NUMBER = Value()
_AMERICAN, _EUROPEAN = "%m/%d/%Y", "%d/%m/%Y"


def end_of(hospital: Hospital, person: StoryPatient, resource_type: str) -> End:
    """Where a faultless row of this person must end, by who they are and by the tenant's configuration."""
    if person.role == "late":
        return "created"
    if person.role in ("deceased", "merged_differs"):
        return "in_review"
    if person.role == "denied" or (person.role == "partly_denied" and resource_type == "Condition"):
        return "denied"
    mode = hospital.modes[resource_type]
    if mode in ("off", "shadow"):
        return "not_written"
    if mode == "review_all" or (person.role == "no_consent" and hospital.none_found == "review"):
        return "in_review"
    return "created"


@dataclass(slots=True)
class RowMaker:
    """Makes rows of one hospital; every call is another fact, because no two share a person and a minute."""

    hospital: Hospital
    random: Random
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _clocks: dict[str, datetime] = field(default_factory=dict)

    def moment(self, person: StoryPatient) -> datetime:
        """The person's next time of an event: by day, in March 2025, in the hospital's zone, never twice the same."""
        last = self._clocks.get(person.mrn, datetime(2025, 3, 2, 20, 0, tzinfo=self.hospital.zone))
        later = last + timedelta(minutes=self.random.randrange(60, 420))
        if not 6 <= later.hour < 22:
            later = (last + timedelta(days=1)).replace(hour=6, minute=self.random.randrange(60))
        self._clocks[person.mrn] = later
        return later

    def lab(
        self,
        person: StoryPatient,
        measure: Measure,
        *,
        plant: str = "clean",
        end: End | None = None,
        visit: str | None = None,
        **said: Any,
    ) -> Planted:
        """A row of the laboratory portal; ``said`` replaces columns by what the plant makes them say."""
        when = self.moment(person)
        number, text, unit = self._measured(measure, metric=plant != "clean")
        hemoglobin = measure.loinc == "718-7"
        columns = {
            "accession": f"{self.hospital.id[0].upper()}{next(self._numbers):06d}",
            "mrn": person.mrn,
            "last_name": person.family.upper(),
            "first_name": person.given,
            "dob": datetime.fromisoformat(person.birth_date).strftime(_AMERICAN),
            "sex": person.sex[0].upper(),
            "visit": visit or "",
            "test_code": measure.local,
            "test_name": measure.name,
            "result": text,
            "unit": unit,
            "ref_low": "12.0" if hemoglobin else "",
            "ref_high": "17.5" if hemoglobin else "",
            "collected": when.strftime(f"{_AMERICAN} %H:%M"),
            "verified": (when + timedelta(hours=2)).strftime(f"{_AMERICAN} %H:%M"),
            "state": "final",
            "page": str(self.random.randrange(1, 40)),
            "scraped_at": "2025-03-27T02:00:00Z",
        }
        return self._observed("lab_portal", columns | said, person, measure, when, number, plant, end)

    def vital(
        self,
        person: StoryPatient,
        measure: Measure,
        *,
        plant: str = "clean",
        end: End | None = None,
        visit: str | None = None,
        **said: Any,
    ) -> Planted:
        """A row of the ward flowsheet."""
        when = self.moment(person)
        number, text, unit = self._measured(measure, metric=plant != "clean")
        columns = self._charted(person, visit, when) | {"item": measure.local, "value": text, "unit": unit}
        return self._observed("ward_flowsheet", columns | said, person, measure, when, number, plant, end)

    def pressure(self, person: StoryPatient, *, visit: str | None = None) -> tuple[Planted, Planted]:
        """Systolic and diastolic, two rows that are one Observation and share its end."""
        when = self.moment(person)
        charted = self._charted(person, visit, when)
        parts = [(m, *self._measured(m, metric=True)) for m in (SYSTOLIC, DIASTOLIC)]
        fact = FactKey("Observation", person.chart_id, BLOOD_PRESSURE, instant(when))
        value = Value(tuple((m.loinc, number, m.unit) for m, number, _, _ in parts))
        end = end_of(self.hospital, person, "Observation")
        first, second = (
            Planted(
                "ward_flowsheet",
                {**charted, "entry": f"{charted['entry']}-{m.local}", "item": m.local, "value": text, "unit": unit},
                "clean",
                end,
                fact,
                value,
            )
            for m, _, text, unit in parts
        )
        return first, second

    def agent(
        self,
        person: StoryPatient,
        topic: str,
        *,
        plant: str = "clean",
        end: End | None = None,
        visit: str | None = None,
        **said: Any,
    ) -> Planted:
        """A line of the bedside agent: ``topic`` is weight, temperature, problem, note, phone or mood."""
        when = self.moment(person)
        columns: dict[str, Any] = {
            "id": f"{self.hospital.id}-{next(self._numbers)}",
            "model": "bedside-reader-3",
            "written": (when + timedelta(minutes=20)).isoformat(),
            "topic": topic,
            "patient": {"mrn": person.mrn, "family": person.family, "given": person.given, "born": person.birth_date},
            "at": when.isoformat(),
            "confidence": self.random.choice(("0.96", "0.97", "0.99")),
            "basis": "observed",
        } | ({"visit": visit} if visit else {})
        if topic in ("weight", "temperature"):
            measure = WEIGHT if topic == "weight" else TEMPERATURE
            number, text, unit = self._measured(measure, metric=True)
            columns |= {"value": text, "unit": unit, "evidence": f"note of {when:%H:%M}"}
            return self._observed("bedside_agent", columns | said, person, measure, when, number, plant, end)
        columns |= said
        if topic == "problem":
            fact = FactKey("Condition", person.chart_id, columns["code"], instant(when))
        elif topic == "note":
            columns |= {"term": "Nursing note", "text": f"Seen at {when:%H:%M}, resting, no complaints."}
            fact = FactKey("DocumentReference", person.chart_id, PROGRESS_NOTE, instant(when))
            digest = hashlib.sha256(columns["text"].encode()).hexdigest()
            return self._coded("bedside_agent", columns, person, fact, plant, end, Value(((PROGRESS_NOTE, digest, ""),)))
        else:
            return Planted("bedside_agent", columns, plant, end or "in_review")
        return self._coded("bedside_agent", columns, person, fact, plant, end)

    def clinic(
        self,
        person: StoryPatient,
        resource_type: str,
        code: tuple[str, str],
        date_column: str,
        *,
        plant: str = "clean",
        end: End | None = None,
        **said: Any,
    ) -> Planted:
        """A row of one of the clinic's tables; dates are days in ISO form unless ``said`` has them otherwise."""
        when = self.moment(person)
        names = {"Condition": ("row", "term"), "MedicationRequest": ("order_no", "drug"), "Immunization": ("shot", "vaccine")}
        number, term = names.get(resource_type, ("row", "term"))
        columns = {number: f"C{next(self._numbers):05d}", "mrn": person.mrn, "code": code[0], term: code[1]}
        columns |= {date_column: when.strftime("%Y-%m-%d")} | said
        fact = FactKey(resource_type, person.chart_id, code[0], when.strftime("%Y-%m-%d"))
        return self._coded("clinic_export", columns, person, fact, plant, end)

    def undeclared(
        self, person: StoryPatient, code: tuple[str, str], day: int, *, american: bool, plant: str = "clean"
    ) -> Planted:
        """A problem with a date in digits that no declared order explains: readable only where the day is over 12."""
        date = datetime(2025, 3, day, tzinfo=UTC)
        noted = date.strftime(_AMERICAN if american else _EUROPEAN)
        end: End | None = "quarantined" if day <= 12 else None
        row = self.clinic(person, "Condition", code, "noted", plant=plant, end=end, noted=noted, state="A")
        assert row.fact is not None
        return replace(row, fact=replace(row.fact, when=date.strftime("%Y-%m-%d")))

    def _charted(self, person: StoryPatient, visit: str | None, when: datetime) -> dict[str, Any]:
        return {
            "entry": f"W{next(self._numbers):06d}",
            "mrn": person.mrn,
            "visit": visit or "",
            "charted": when.strftime(f"{_EUROPEAN} %H:%M"),
            "item": "",
            "value": "",
            "unit": "",
            "charted_by": f"N. {self.random.choice('ABCDEFGH')}.",
        }

    def _measured(self, measure: Measure, *, metric: bool) -> tuple[Decimal, str, str]:
        """A value in the measure's own unit, and how the source writes it: number and unit."""
        number = Decimal(self.random.randrange(measure.low, measure.high)) / 10
        if metric or measure.other is None or self.random.random() < 0.7:
            return number, str(number), measure.written
        written = (number * measure.factor + measure.offset).quantize(_TENTH)
        return ((written - measure.offset) / measure.factor).quantize(_TENTH), str(written), measure.other

    def _observed(
        self,
        source: str,
        columns: dict[str, Any],
        person: StoryPatient,
        measure: Measure,
        when: datetime,
        number: Decimal,
        plant: str,
        end: End | None,
    ) -> Planted:
        fact = FactKey("Observation", person.chart_id, measure.loinc, instant(when))
        return self._coded(source, columns, person, fact, plant, end, Value(((measure.loinc, number, measure.unit),)))

    def _coded(
        self,
        source: str,
        columns: dict[str, Any],
        person: StoryPatient,
        fact: FactKey,
        plant: str,
        end: End | None,
        value: Value = _SAYS_NO_NUMBER,
    ) -> Planted:
        return Planted(source, columns, plant, end or end_of(self.hospital, person, fact.resource_type), fact, value)
