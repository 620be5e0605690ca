"""A denial counts however its patient is named; one whose patient nobody can tell makes every write that it denies a person's."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from commit.faults import FaultyLine, Twist
from commit.world import MRN, World, consent, heart_rate, patient
from conftest import OpenLayer
from decide.stage import Stage

AT = "2024-03-01T10:00:00Z"
Name = Callable[[World], dict[str, Any]]


def _https(world: World) -> dict[str, Any]:
    return {"reference": world.tenant.ehr.base_url.replace("http://", "https://") + "/Patient/a"}


def _upper(world: World) -> dict[str, Any]:
    parts = urlsplit(world.tenant.ehr.base_url)
    return {"reference": parts._replace(netloc=parts.netloc.replace("localhost", "LOCALHOST")).geturl() + "/Patient/a"}


TOLD: dict[str, Name] = {
    "https": _https,
    "upper case": _upper,
    "slash at the end": lambda _: {"reference": "Patient/a/"},
    "absolute with a slash at the end": lambda world: {"reference": f"{world.tenant.ehr.base_url}/Patient/a/"},
    "versioned": lambda _: {"reference": "Patient/a/_history/1"},
    "absolute and versioned": lambda world: {"reference": f"{world.tenant.ehr.base_url}/Patient/a/_history/1"},
    "identifier": lambda _: {"identifier": {"system": MRN, "value": "1"}},
    "identifier beside another server's name": lambda _: {
        "reference": "https://hie.example/fhir/Patient/77",
        "identifier": {"system": MRN, "value": "1"},
    },
}
UNCLEAR: dict[str, Name] = {
    "another host": lambda _: {"reference": "https://hie.example/fhir/Patient/a"},
    "unknown identifier": lambda _: {"identifier": {"system": MRN, "value": "nobody's"}},
    "identifier without system": lambda _: {"identifier": {"value": "1"}},
    "display": lambda _: {"display": "Case Test"},
    "urn": lambda _: {"reference": "urn:uuid:6f9619ff-8b86-d011-b42d-00cf4fc964ff"},
    "contained": lambda _: {"reference": "#a"},
    "another type": lambda _: {"reference": "Group/a"},
    "search": lambda _: {"reference": "Patient?identifier=1"},
}


class Disguised:
    """A world whose EHR tells of one consent, and names its patient in another way than it is stored with."""

    def __init__(self, world: World, line: FaultyLine) -> None:
        self.world, self._name = world, {"reference": "Patient/a"}
        line.rules.append(lambda seen: Twist(self._renamed) if seen.path.startswith("Consent") else None)

    def told(self, name: dict[str, Any], provision: str = "deny") -> None:
        """Patients a and b with the numbers 1 and 2, and the consent."""
        self._name = name
        self.world.load(patient("a", "1"), patient("b", "2"), consent("c", "a", provision))
        self.world.refresh()

    def ends(self) -> list[tuple[Any, ...]]:
        """How a write for each of the two ends."""
        self.world.approve(heart_rate("a", AT, 72), mrn="1")
        self.world.approve(heart_rate("b", AT, 72), mrn="2")
        self.world.commit()
        return self.world.rows("SELECT patient_id, state, reason FROM ledger.intent WHERE tenant = %s ORDER BY patient_id")

    def _renamed(self, status: int, headers: Any, body: bytes) -> Any:
        found = json.loads(body)
        for entry in found.get("entry", []):
            entry["resource"]["patient"] = self._name
        return status, headers, json.dumps(found).encode()


DENIED = [("a", "withdrawn", "consent_deny"), ("b", "committed", None)]
HELD = [("a", "withdrawn", "consent_patient_unclear"), ("b", "withdrawn", "consent_patient_unclear")]


@pytest.fixture
def disguised(faulty: World, line: FaultyLine) -> Disguised:
    return Disguised(faulty, line)


@pytest.mark.parametrize("name", TOLD.values(), ids=list(TOLD))
def test_a_denial_is_its_patients_however_that_one_is_named(disguised: Disguised, name: Name) -> None:
    disguised.told(name(disguised.world))
    assert disguised.ends() == DENIED


@pytest.mark.parametrize("name", UNCLEAR.values(), ids=list(UNCLEAR))
def test_a_denial_of_nobody_can_tell_whom_holds_every_write_that_it_denies(disguised: Disguised, name: Name) -> None:
    disguised.told(name(disguised.world))
    assert disguised.ends() == HELD


def test_a_permit_of_nobody_can_tell_whom_permits_nobody_and_holds_nobody(disguised: Disguised) -> None:
    disguised.told({"display": "Case Test"}, "permit")
    assert {state for _, state, _ in disguised.ends()} == {"committed"}, "none found, and this tenant permits then"


def test_who_comes_into_the_mirror_after_the_consent_is_told_by_its_identifier(disguised: Disguised) -> None:
    disguised.told({"identifier": {"system": MRN, "value": "7"}})
    disguised.world.load(patient("a", "1", "7"))
    disguised.world.refresh()
    assert disguised.ends() == DENIED


def test_an_identifier_that_moved_takes_the_denial_with_it(disguised: Disguised) -> None:
    disguised.told({"identifier": {"system": MRN, "value": "7"}})
    disguised.world.load(patient("b", "2", "7"))
    disguised.world.refresh()
    disguised.world.load(patient("b", "2"), patient("a", "1", "7"))
    disguised.world.refresh()
    assert disguised.ends() == DENIED


def test_an_identifier_of_two_patients_tells_of_neither(disguised: Disguised) -> None:
    disguised.world.load(patient("a2", "1"))
    disguised.told({"identifier": {"system": MRN, "value": "1"}})
    assert disguised.ends()[1] == HELD[1]


def test_decide_asks_a_person(disguised: Disguised, open_run: OpenLayer) -> None:
    disguised.told({"reference": "https://hie.example/fhir/Patient/a"})
    stage = Stage(disguised.world.tenant, open_run, now=datetime.now(UTC))
    record = stage.tell(patient={"identifiers": [{"system": MRN, "value": "2"}]})
    stage.decide()
    assert stage.end_of(record) == ("in_review", "consent_patient_unclear")


def test_other_bases_under_which_the_ehr_names_its_own_are_a_setting(make_world: Callable[..., World], line: FaultyLine) -> None:
    world = make_world(ehr={"base_url": line.base_url, "also_at": ["https://hie.example/fhir"]})
    known = Disguised(world, line)
    known.told({"reference": "http://hie.example/fhir/Patient/a"})
    assert known.ends() == DENIED
