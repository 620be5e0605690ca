"""The demo's deliveries: about a thousand rows a hospital, clean and messy, and what comes after them.

Everything planted is written down in the rows themselves (:class:`~fhir_writeback_dagster.sandbox.story.expected.Planted`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from itertools import product
from random import Random
from typing import Any

from fhir_writeback_dagster.sandbox.story.expected import End, Planted, Value
from fhir_writeback_dagster.sandbox.story.files import File, csv_file, jsonl_file, truncated
from fhir_writeback_dagster.sandbox.story.hospitals import Hospital, StoryPatient
from fhir_writeback_dagster.sandbox.story.rows import RowMaker
from fhir_writeback_dagster.sandbox.story.vocabulary import (
    ALLERGIES,
    DRUGS,
    LABS,
    PROBLEMS,
    PROCEDURES,
    UNMAPPED_LAB,
    VACCINES,
    VITALS,
    WEIGHT,
)

_SPECIAL = ("late", "merged", "merged_differs", "deceased", "chart_equal", "chart_differs")
#: A time of day that clocks skipped, by zone.
_SKIPPED = {"America/New_York": "03/09/2025 02:30", "Europe/Dublin": "03/30/2025 01:30"}


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that is delivered to one hospital, in order, and what its EHR holds already.

    ``filed`` are resources that another system put into the chart before: one that says what a row says, one that does not.
    """

    hospital: Hospital
    first: tuple[File, ...]
    filed: tuple[dict[str, Any], ...]
    again: tuple[File, ...]
    corrections: tuple[File, ...]
    old: tuple[File, ...]


def make_story(hospital: Hospital, seed: int = 20250301) -> Story:
    """The deliveries of one hospital, the same for the same seed."""
    maker = RowMaker(hospital, Random(f"{seed}/{hospital.id}"))  # noqa: S311 - a story, not a secret
    labs, filed = _labs(maker)
    ward = _ward(maker)
    agent = _agent(maker, ward)
    maker.random.shuffle(labs)
    first = (
        csv_file("lab_portal", "labs_2025-03-27.csv", labs),
        csv_file("ward_flowsheet", "ward_2025-03-27.csv", ward, delimiter=";"),
        jsonl_file("bedside_agent", "agent_2025-03-27.jsonl", agent),
        *_clinic(maker),
    )
    broken = truncated(csv_file("lab_portal", "-", [maker.lab(p, LABS[0]) for p in _anybody(maker, 40)]), "labs_broken.csv")
    return Story(hospital, (*first, broken), filed, _exported_again(labs, ward), *_corrected(maker, labs, ward))


def _anybody(maker: RowMaker, number: int) -> list[StoryPatient]:
    """People without a special part in the story, drawn with replacement."""
    return maker.random.choices([p for p in maker.hospital.people if p.role not in _SPECIAL], k=number)


def _labs(maker: RowMaker) -> tuple[list[Planted], tuple[dict[str, Any], ...]]:
    random, hospital = maker.random, maker.hospital
    rows = [maker.lab(p, random.choice(LABS), visit=p.open_visit or p.closed_visit) for p in _anybody(maker, 420)]
    for role, rest in (("late", 4), ("merged", 2), ("merged_differs", 2), ("deceased", 3)):
        rows += [maker.lab(p, random.choice(LABS), plant=role) for p in hospital.people if p.role == role for _ in range(rest)]
    plain = [p for p in hospital.people if p.role == "plain"]

    def plant(name: str, number: int, end: End, **said: Any) -> None:
        rows.extend(maker.lab(p, random.choice(LABS[1:]), plant=name, end=end, **said) for p in random.sample(plain, number))

    plant("no_patient", 3, "quarantined", mrn="")
    plant("unparsable_date", 2, "quarantined", collected="02/31/2025 10:00")
    plant("skipped_hour", 1, "quarantined", collected=_SKIPPED[hospital.time_zone])
    plant("unmapped_code", 2, "quarantined", test_code=UNMAPPED_LAB, test_name="Lipids, other")
    plant("unknown_unit", 2, "quarantined", unit="furlongs")
    plant("other_demographics", 2, "in_review", last_name="ZIMMERMANN", first_name="OTTILIE", dob="01/02/1933")
    copies = [r for r in rows if r.plant == "clean" and r.end == "created"][:6]
    rows += [replace(r, end="suppressed", plant="duplicate_in_file") for r in copies]
    (equal,) = (maker.lab(p, LABS[1], plant="chart_equal", end="suppressed") for p in hospital.having("chart_equal"))
    (differs,) = (maker.lab(p, LABS[1], plant="chart_differs", end="in_review") for p in hospital.having("chart_differs"))
    return [*rows, equal, differs], (_filed(equal, "0"), _filed(differs, "0.7"))


def _filed(row: Planted, more: str) -> dict[str, Any]:
    """What the laboratory's own interface filed: the row's fact, its value changed by ``more``."""
    assert row.fact is not None
    code, number, unit = row.value.parts[0]
    category = "http://terminology.hl7.org/CodeSystem/observation-category"
    return {
        "resourceType": "Observation",
        "id": f"lis-{row.fact.chart_id}",
        "status": "final",
        "category": [{"coding": [{"system": category, "code": "laboratory"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": f"Patient/{row.fact.chart_id}"},
        "effectiveDateTime": row.fact.when,
        "valueQuantity": {
            "value": Decimal(number) + Decimal(more),
            "unit": unit,
            "system": "http://unitsofmeasure.org",
            "code": unit,
        },
    }


def _ward(maker: RowMaker) -> list[Planted]:
    random, hospital = maker.random, maker.hospital
    rows = [r for p in _anybody(maker, 65) for r in maker.pressure(p, visit=p.open_visit)]
    rows += [maker.vital(p, random.choice(VITALS), visit=p.open_visit) for p in _anybody(maker, 160)]
    rows += [maker.vital(p, WEIGHT, plant="late") for p in hospital.having("late")]
    plain = [p for p in hospital.people if p.role == "plain"]
    someone, other = random.sample([p for p in plain if p.open_visit], 2)
    rows += [
        maker.vital(someone, WEIGHT, plant="visit_of_another", end="in_review", visit=other.open_visit),
        maker.vital(someone, WEIGHT, plant="unit_unexpected", end="quarantined", unit="mm[Hg]"),
        maker.vital(someone, WEIGHT, plant="source_truth_only", end="not_written", item="DIET", value="light", unit=""),
        *(maker.vital(p, WEIGHT, plant="told_twice") for p in random.sample(plain, 6)),
        *(maker.vital(p, WEIGHT, plant="told_differently") for p in random.sample(plain, 3)),
    ]
    return rows


def _agent(maker: RowMaker, ward: Sequence[Planted]) -> list[Planted]:
    random = maker.random
    rows = [maker.agent(p, random.choice(("weight", "temperature")), visit=p.open_visit) for p in _anybody(maker, 60)]
    plain = [p for p in maker.hospital.people if p.role == "plain"]
    rows += [
        maker.agent(p, "weight", plant="low_confidence", end="in_review", confidence="0.41") for p in random.sample(plain, 4)
    ]
    problems = random.sample(list(product(plain, PROBLEMS)), 6)
    rows += [
        maker.agent(p, "problem", plant="inferred", end="in_review", basis="inferred", code=code, term=term)
        for p, (code, term) in problems
    ]
    rows += [maker.agent(p, "note", visit=p.open_visit) for p in random.sample([p for p in plain if p.open_visit], 8)]
    rows += [
        maker.agent(p, "note", plant="closed_visit", end="in_review", visit=p.closed_visit)
        for p in random.sample([p for p in plain if p.closed_visit], 3)
    ]
    rows += [maker.agent(p, "phone", plant="patient_update", phone="+1-555-0199") for p in random.sample(plain, 2)]
    rows += [maker.agent(p, "mood", plant="source_truth_only", end="not_written", text="calm") for p in random.sample(plain, 2)]
    people = {p.mrn: p for p in plain}
    for told in ward:
        if told.plant in ("told_twice", "told_differently"):
            rows.append(_retold(maker, people[told.columns["mrn"]], told))
    return rows


def _retold(maker: RowMaker, person: StoryPatient, told: Planted) -> Planted:
    """The agent's telling of a fact that the flowsheet tells too: equal it is suppressed, other it goes to a person."""
    when = datetime.strptime(told.columns["charted"], "%d/%m/%Y %H:%M").replace(tzinfo=maker.hospital.zone)
    equal = told.plant == "told_twice"
    number = Decimal(told.columns["value"]) + (0 if equal else 3)
    end: End = "suppressed" if equal else "in_review"
    row = maker.agent(person, "weight", plant=told.plant, end=end, at=when.isoformat(), value=str(number))
    return replace(row, fact=told.fact, value=Value(((WEIGHT.loinc, number, WEIGHT.unit),)))


def _clinic(maker: RowMaker) -> tuple[File, ...]:
    random = maker.random
    people = [p for p in maker.hospital.people if p.role not in _SPECIAL]

    def draw(codes: Iterable[tuple[str, str]], number: int) -> list[tuple[StoryPatient, tuple[str, str]]]:
        return random.sample(list(product(people, codes)), number)

    drawn = draw(PROBLEMS[:5], 60)
    problems = [maker.undeclared(p, c, random.randrange(13, 27), american=n % 2 == 0) for n, (p, c) in enumerate(drawn[:45])]
    problems += [
        maker.undeclared(p, c, random.randrange(4, 13), american=n % 2 == 0, plant="ambiguous_date")
        for n, (p, c) in enumerate(drawn[45:])
    ]
    orders = [
        maker.clinic(p, "MedicationRequest", c, "ordered", visit=p.open_visit or "", state="A", sig="1 daily")
        for p, c in draw(DRUGS, 30)
    ]
    shots = [maker.clinic(p, "Immunization", c, "given", lot=f"L{random.randrange(900) + 100}") for p, c in draw(VACCINES, 15)]
    allergies = [
        maker.clinic(p, "AllergyIntolerance", c, "recorded", severity=random.choice("HL")) for p, c in draw(ALLERGIES, 20)
    ]
    procedures = [maker.clinic(p, "Procedure", c, "done", visit="") for p, c in draw(PROCEDURES, 12)]
    made = {"problems": problems, "orders": orders, "shots": shots, "allergies": allergies, "procedures": procedures}
    return tuple(csv_file("clinic_export", f"{table}_2025-03.csv", rows) for table, rows in made.items())


def _exported_again(labs: Sequence[Planted], ward: Sequence[Planted]) -> tuple[File, ...]:
    """The same rows, as the next export writes them: another order, other line ends, scraped at another time."""
    seen_later = [replace(r.again(), columns={**r.columns, "scraped_at": "2025-03-28T02:00:00Z"}) for r in labs]
    return (
        csv_file("lab_portal", "labs_2025-03-28.csv", seen_later[::-1], line_end="\r\n"),
        csv_file("ward_flowsheet", "ward_2025-03-28.csv", [r.again() for r in ward][::-1], delimiter=";", line_end="\r\n"),
    )


def _corrected(maker: RowMaker, labs: Sequence[Planted], ward: Sequence[Planted]) -> tuple[tuple[File, ...], tuple[File, ...]]:
    """Corrected rows, and then the first files once more, a line end longer: what was corrected must not come back."""
    copied = {r.columns["accession"] for r in labs if r.plant == "duplicate_in_file"}
    written = [r for r in labs if r.plant == "clean" and r.end == "created" and r.columns["accession"] not in copied]
    value, other_patient = maker.random.sample([r for r in written if r.columns["test_code"] == "K"], 2)
    weight = maker.random.choice([r for r in ward if r.plant == "clean" and r.end == "created" and r.columns["unit"] == "kg"])
    late = {"verified": "03/29/2025 08:00", "state": "corrected"}
    wrong = next(p for p in maker.hospital.people if p.role == "plain" and p.mrn != other_patient.columns["mrn"])
    whose = {"mrn": wrong.mrn, "last_name": wrong.family, "first_name": wrong.given, "visit": ""}
    born = datetime.fromisoformat(wrong.birth_date).strftime("%m/%d/%Y")
    corrections = (
        csv_file(
            "lab_portal",
            "labs_corrections.csv",
            [
                _changed(value, "result", "6.1", "updated", "corrected_value", late),
                # Last of all, because somebody who waits has the mirror read again and again.
                maker.lab(wrong, LABS[1], plant="unknown_patient", end="waiting", mrn=f"{maker.hospital.id[0].upper()}000001"),
                replace(
                    other_patient,
                    columns={**other_patient.columns, **late, **whose, "dob": born, "sex": wrong.sex[0].upper()},
                    end="in_review",
                    plant="wrong_patient",
                ),
            ],
        ),
        csv_file(
            "ward_flowsheet",
            "ward_corrections.csv",
            [_changed(weight, "value", "61.5", "updated", "corrected_value", {})],
            delimiter=";",
        ),
    )

    def old(rows: Sequence[Planted], corrected: Planted, end: End) -> Callable[[File], File]:
        read = tuple(r.again(end) if r.columns == corrected.columns else r.again() for r in rows)
        return lambda file: replace(file, data=file.data + b"\n", rows=read)

    labs_again = old(labs, value, "stale")(csv_file("lab_portal", "labs_old.csv", labs))
    ward_again = old(ward, weight, "in_review")(csv_file("ward_flowsheet", "ward_old.csv", ward, delimiter=";"))
    return corrections, (labs_again, ward_again)


def _changed(row: Planted, column: str, text: str, end: End, plant: str, more: dict[str, str]) -> Planted:
    code, _, unit = row.value.parts[0]
    return replace(
        row,
        columns={**row.columns, **more, column: text},
        value=replace(row.value, parts=((code, Decimal(text), unit),)),
        end=end,
        plant=plant,
    )
