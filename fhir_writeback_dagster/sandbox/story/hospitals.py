"""The demo's two hospitals: who their patients are, and what their EHRs hold before the first extract comes.

Everything is invented and seeded: one seed, one world. Dates lie around March 2025, when clocks change on both sides of the
Atlantic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal
from zoneinfo import ZoneInfo

from fhir_writeback_dagster.config.tenants import Mode
from fhir_writeback_dagster.rules.fhir.resource import Resource

#: What is special about a person; each has rows that must end as the role says.
StoryRole = Literal[
    "plain",
    "no_consent",  # the EHR has no Consent: the tenant's `none_found` decides
    "denied",  # an active Consent denies
    "partly_denied",  # permits, but denies Conditions by a nested provision
    "late",  # not registered when the rows come
    "merged",  # registered under a number that was merged into another; both are the same person
    "merged_differs",  # the same, but the survivor is somebody else by name and birth date
    "deceased",
    "chart_equal",  # the laboratory interface has filed one of the facts already
    "chart_differs",  # it has filed it with another value
]
_COUNTS: dict[StoryRole, int] = {
    "no_consent": 6,
    "denied": 3,
    "partly_denied": 1,
    "late": 1,
    "merged": 1,
    "merged_differs": 1,
    "deceased": 1,
    "chart_equal": 1,
    "chart_differs": 1,
}
PEOPLE = 60

_MODES: dict[str, Mode] = {
    "Observation": "auto",
    "Condition": "auto",
    "AllergyIntolerance": "auto",
    "DocumentReference": "auto",
    "Patient": "auto",
    "MedicationRequest": "review_all",
}

_FAMILIES = (
    "Abbott Achterberg Baptiste Beaumont Callahan Castellano Dvorak Eriksen Farrow Fitzgerald Galloway Hargreaves Ibarra "
    "Jankowski Keating Lindqvist Marchetti Nakamura O'Rourke Pemberton Quigley Rasmussen Santoro Thibault Underwood "
    "Vandermeer Whitlock Yilmaz Zeller Brannigan"
).split()
_GIVENS = {
    "female": "Alma Beatrix Carmen Dagny Edith Farah Greta Hanna Ines Judith".split(),
    "male": "Anton Boris Cedric Dermot Emil Felix Gustav Hugo Ivan Jonas".split(),
}


@dataclass(frozen=True, slots=True)
class StoryPatient:
    """``mrn`` is the number that the sources know; ``chart_id`` the Patient whose chart their facts belong to."""

    number: int
    mrn: str
    chart_id: str
    family: str
    given: str
    birth_date: str
    sex: Literal["female", "male"]
    phone: str
    role: StoryRole
    open_visit: str | None = None
    closed_visit: str | None = None


@dataclass(frozen=True, slots=True)
class Hospital:
    """One tenant of the demo and the patients that it knows."""

    id: str
    name: str
    time_zone: str
    none_found: Literal["permit", "review", "deny"]
    modes: dict[str, Mode]
    people: tuple[StoryPatient, ...]

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    @property
    def identifier_system(self) -> str:
        """System of the business keys that the tenant's write-back leaves in the EHR."""
        return f"https://{self.id}.example/write-back"

    @property
    def mrn_system(self) -> str:
        return f"https://{self.id}.example/mrn"

    @property
    def visit_system(self) -> str:
        return f"https://{self.id}.example/visit"

    def having(self, role: StoryRole) -> list[StoryPatient]:
        return [p for p in self.people if p.role == role]

    def chart(self) -> list[Resource]:
        """What the EHR holds before the first extract: patients, then encounters and consents."""
        known = [p for p in self.people if p.role != "late"]
        patients = [r for p in known for r in _patients(self, p)]
        return patients + [e for p in known for e in _encounters(self, p)] + [c for p in known for c in _consents(p)]

    def late_registration(self) -> list[Resource]:
        """What the front desk enters after the data came."""
        return [r for p in self.having("late") for r in (*_patients(self, p), *_consents(p))]


def make_world(seed: int = 20250301) -> tuple[Hospital, ...]:
    """The demo's hospitals, the same for the same seed."""
    random = Random(seed)  # noqa: S311 - a world, not a secret
    return (
        Hospital(
            "mercy",
            "Mercy General",
            "America/New_York",
            "permit",
            {**_MODES, "Immunization": "shadow", "Procedure": "off"},
            tuple(_people(random, "M")),
        ),
        Hospital(
            "stvincent",
            "St Vincent's",
            "Europe/Dublin",
            "review",
            {**_MODES, "Immunization": "off", "Procedure": "auto"},
            tuple(_people(random, "V")),
        ),
    )


def _people(random: Random, prefix: str) -> Iterator[StoryPatient]:
    roles: list[StoryRole] = [role for role, count in _COUNTS.items() for _ in range(count)]
    roles += ["plain"] * (PEOPLE - len(roles))
    random.shuffle(roles)
    names = random.sample([(f, sex, i) for f in _FAMILIES for sex in ("female", "male") for i in range(10)], PEOPLE)
    for number, (role, (family, sex, given)) in enumerate(zip(roles, names, strict=True), start=1):
        plain = role == "plain"
        visits = random.randrange(3) if plain else 2  # open, closed or none
        yield StoryPatient(
            number=number,
            mrn=f"{prefix}{700000 + number * 37}",
            chart_id=f"{prefix.lower()}-{number:03d}",
            family=family,
            given=_GIVENS[sex][given],
            birth_date=f"{random.randrange(1938, 2006)}-{random.randrange(1, 13):02d}-{random.randrange(1, 29):02d}",
            sex="female" if sex == "female" else "male",
            phone=f"+1-555-01{number:02d}",
            role=role,
            open_visit=f"{prefix}V{number:04d}-1" if visits == 0 else None,
            closed_visit=f"{prefix}V{number:04d}-0" if visits == 1 else None,
        )


def _patients(hospital: Hospital, person: StoryPatient) -> Iterator[Resource]:
    patient = _patient(hospital, person, person.chart_id, person.mrn)
    if person.role == "deceased":
        patient["deceasedDateTime"] = "2025-02-27"
    if person.role not in ("merged", "merged_differs"):
        yield patient
        return
    survivor = _patient(hospital, person, person.chart_id, f"{person.mrn}9")
    if person.role == "merged_differs":
        survivor["name"] = [{"use": "official", "family": "Oppenheim", "given": ["Wanda"]}]
        survivor["birthDate"] = "1950-01-31"
    yield survivor
    yield {
        **patient,
        "id": f"{person.chart_id}-old",
        "active": False,
        "link": [{"other": {"reference": f"Patient/{person.chart_id}"}, "type": "replaced-by"}],
    }


def _patient(hospital: Hospital, person: StoryPatient, chart_id: str, mrn: str) -> Resource:
    kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]}
    return {
        "resourceType": "Patient",
        "id": chart_id,
        "active": True,
        "identifier": [{"use": "usual", "type": kind, "system": hospital.mrn_system, "value": mrn}],
        "name": [{"use": "official", "family": person.family, "given": [person.given]}],
        "telecom": [{"system": "phone", "value": person.phone, "use": "home"}],
        "gender": person.sex,
        "birthDate": person.birth_date,
    }


def _encounters(hospital: Hospital, person: StoryPatient) -> Iterator[Resource]:
    for visit, status, period in (
        (person.open_visit, "in-progress", {"start": "2025-03-01T06:00:00Z"}),
        (person.closed_visit, "finished", {"start": "2025-03-01T06:00:00Z", "end": "2025-03-27T20:00:00Z"}),
    ):
        if visit:
            yield {
                "resourceType": "Encounter",
                "id": f"e-{visit.lower()}",
                "status": status,
                "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
                "identifier": [{"system": hospital.visit_system, "value": visit}],
                "subject": {"reference": f"Patient/{person.chart_id}"},
                "period": period,
            }


def _consents(person: StoryPatient) -> Iterator[Resource]:
    if person.role == "no_consent":
        return
    provision: Resource = {"type": "deny" if person.role == "denied" else "permit"}
    if person.role == "partly_denied":
        provision["provision"] = [
            {"type": "deny", "class": [{"system": "http://hl7.org/fhir/resource-types", "code": "Condition"}]}
        ]
    yield {
        "resourceType": "Consent",
        "id": f"c-{person.chart_id}",
        "status": "active",
        "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": f"Patient/{person.chart_id}"},
        "dateTime": "2025-01-15",
        "policyRule": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "OPTIN"}]},
        "provision": provision,
    }
