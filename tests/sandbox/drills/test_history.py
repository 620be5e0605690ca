"""What a drill's verdict reads in the EHR's history: only what is wrong there, whatever stands there now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from commit.world import heart_rate

from fhir_writeback_dagster.sandbox.check import fact_of
from fhir_writeback_dagster.sandbox.drills.history import denials, of_another, over_denial, version_of
from fhir_writeback_dagster.sandbox.story.expected import Value

AT = "2025-03-01T10:00:00Z"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def _version(of: str, value: int, number: int = 1, *, id: str = "1", minute: int = 0) -> dict[str, Any]:  # noqa: A002 - FHIR's name
    meta = {"versionId": str(number), "lastUpdated": (NOON + timedelta(minutes=minute)).isoformat()}
    return {**heart_rate(of, AT, value), "id": id, "meta": meta}


def _told(of: str, *values: int) -> dict[Any, list[Value]]:
    fact = fact_of(_version(of, 0))
    return {fact: [Value((("8867-4", Decimal(value), "/min"),)) for value in values]}


def test_what_was_told_of_its_fact_is_right_in_every_version() -> None:
    versions = [_version("a", 72), _version("a", 80, 2)]
    assert of_another(versions, _told("a", 72, 80), ()) == set()


def test_anothers_value_is_seen_though_it_was_put_right_again() -> None:
    versions = [_version("a", 72), _version("a", 55, 2), _version("a", 72, 3)]
    assert of_another(versions, _told("a", 72), ()) == {"Observation/1"}


def test_a_resource_that_nobody_told_of_is_not_ours_to_change() -> None:
    theirs, changed = _version("b", 50, id="2"), _version("b", 72, 2, id="2")
    by_people = {version_of(theirs)}
    assert of_another([theirs], {}, by_people) == set()
    assert of_another([theirs, changed], _told("a", 72), by_people) == {"Observation/2"}


def test_a_resource_keeps_its_patient() -> None:
    versions = [_version("a", 72), _version("b", 72, 2)]
    assert of_another(versions, _told("a", 72) | _told("b", 72), ()) == {"Observation/1"}
    assert of_another(versions, _told("a", 72) | _told("b", 72), {version_of(versions[1])}) == set()


def test_what_is_stored_after_a_denial_is_wrong_when_it_can_have_been_seen() -> None:
    versions = [_version("a", 72, id=str(minute), minute=minute) for minute in (0, 4, 6)]
    grace = timedelta(minutes=5)
    assert over_denial(versions, {"a": NOON}, grace) == {"Observation/6"}
    assert over_denial(versions, {"b": NOON}, grace) == set()


def test_a_denial_is_known_by_reference_or_by_number() -> None:
    def consent(patient: dict[str, Any], kind: str = "deny", minute: int = 0, status: str = "active") -> dict[str, Any]:
        stored = (NOON + timedelta(minutes=minute)).isoformat()
        return {"status": status, "patient": patient, "provision": {"type": kind}, "meta": {"lastUpdated": stored}}

    found = denials(
        [
            consent({"reference": "Patient/a"}, minute=3),
            consent({"reference": "Patient/a"}, minute=1),
            consent({"identifier": {"value": "M2"}}),
            consent({"reference": "Patient/c"}, "permit"),
            consent({"reference": "Patient/d"}, status="inactive"),
        ],
        {"M2": "b"},
    )
    assert found == {"a": NOON + timedelta(minutes=1), "b": NOON}
