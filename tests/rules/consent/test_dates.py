"""A consent's dates have no zone: a denial holds wherever the day may be, a permit only where it is that day everywhere."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from rules.consent.test_evaluate import ASK, concept, consent, deny, permit

from fhir_writeback_dagster.rules.consent.evaluate import evaluate


def outcome(provision: dict[str, Any], at: str, **more: Any) -> str:
    return evaluate([consent(provision, **more)], replace(ASK, at=datetime.fromisoformat(at).replace(tzinfo=UTC))).outcome


MARCH = {"start": "2026-03-02", "end": "2026-03-04"}


@pytest.mark.parametrize(
    ("at", "denies", "permits"),
    [
        ("2026-03-01T09:59", False, "none"),  # nowhere is it the 2nd
        ("2026-03-01T10:00", True, "deny"),  # on Kiritimati it is (UTC+14)
        ("2026-03-02T00:00", True, "deny"),
        ("2026-03-02T11:59", True, "deny"),  # on Baker Island it is the 1st still (UTC-12)
        ("2026-03-02T12:00", True, "permit"),
        ("2026-03-04T09:59", True, "permit"),
        ("2026-03-04T10:00", True, "deny"),  # on Kiritimati the 4th is over
        ("2026-03-05T03:00", True, "deny"),  # the evening of the 4th in New York
        ("2026-03-05T11:59", True, "deny"),
        ("2026-03-05T12:00", False, "none"),
    ],
)
def test_a_period_of_days(at: str, denies: bool, permits: str) -> None:
    assert outcome(deny(period=MARCH), at) == ("deny" if denies else "none")
    assert outcome(permit(period=MARCH), at) == permits


def test_a_tenant_that_knows_its_consents_are_dated_at_home_says_so() -> None:
    def at_home(provision: dict[str, Any], at: str) -> str:
        asked = replace(ASK, at=datetime.fromisoformat(at).replace(tzinfo=UTC), zone="America/New_York")
        return evaluate([consent(provision)], asked).outcome

    inside, outside = ("2026-03-02T05:00", "2026-03-05T04:59"), ("2026-03-02T04:59", "2026-03-05T05:00")
    assert {at_home(permit(period=MARCH), at) for at in inside} == {"permit"}
    assert {at_home(deny(period=MARCH), at) for at in outside} == {"none"}


def test_an_exception_that_denies_for_a_day_holds_all_over_the_day() -> None:
    nested = permit(deny(period={"start": "2026-03-02", "end": "2026-03-02"}))
    assert [outcome(nested, at) for at in ("2026-03-01T09:00", "2026-03-01T11:00", "2026-03-03T11:00", "2026-03-03T12:00")] == [
        "permit", "deny", "deny", "permit",
    ]  # fmt: skip


def test_a_ban_that_is_over_in_some_zones_leaves_no_base_that_permits() -> None:
    """The base of opt-in holds beside a root that bans something else, while that root is surely in force."""
    elsewhere = deny(period=MARCH, action=[concept("consentaction", "access")])
    assert outcome(elsewhere, "2026-03-03T12:00", rule="OPTIN") == "permit"
    assert outcome(elsewhere, "2026-03-05T03:00", rule="OPTIN") == "none"


@pytest.mark.parametrize(
    ("period", "at", "expected"),
    [
        ({"end": "2026-03"}, "2026-04-01T11:00", "deny"),
        ({"end": "2026-03"}, "2026-04-01T12:00", "none"),
        ({"start": "2026"}, "2025-12-31T10:00", "deny"),
        ({"start": "2026"}, "2025-12-31T09:59", "none"),
        ({"start": "2026-03-02T00:00:00Z"}, "2026-03-01T23:59", "none"),
        ({"end": "2026-03-02T00:00:00-05:00"}, "2026-03-02T05:00", "deny"),
        ({"end": "2026-03-02T00:00:00-05:00"}, "2026-03-02T05:01", "none"),
        ({"start": "0001-01-01", "end": "9999-12-31"}, "2026-03-02T05:01", "deny"),
    ],
)
def test_months_years_instants_and_for_ever(period: dict[str, str], at: str, expected: str) -> None:
    assert outcome(deny(period=period), at) == expected


def test_data_of_a_day_that_may_touch_the_period_are_not_permitted_and_are_denied() -> None:
    """An event at noon of the 2nd, UTC, lies on the 2nd everywhere; one at 23:00 may lie on the 3rd."""
    noon = replace(ASK, event=(datetime(2026, 3, 2, 12, tzinfo=UTC),) * 2)
    late = replace(ASK, event=(datetime(2026, 3, 2, 23, tzinfo=UTC),) * 2)
    day = {"start": "2026-03-02", "end": "2026-03-02"}
    assert evaluate([consent(permit(dataPeriod=day))], late).outcome == "deny"
    assert evaluate([consent(deny(dataPeriod=day))], late).outcome == "deny"
    assert evaluate([consent(deny(dataPeriod={"start": "2026-03-03"}))], late).outcome == "deny"
    assert evaluate([consent(deny(dataPeriod={"start": "2026-03-04"}))], noon).outcome == "none"


@pytest.mark.parametrize(
    "reference",
    ["Organization/mercy/_history/2", "Organization/mercy/", "https://elsewhere.example/fhir/Organization/mercy/_history/2"],
)
def test_a_denial_of_our_organisation_counts_however_it_is_named(reference: str) -> None:
    actor = [{"role": {"text": "recipient"}, "reference": {"reference": reference}}]
    assert outcome(deny(actor=actor), "2026-03-02T12:00") == "deny"


def test_a_denial_of_one_instance_counts_in_its_versions_too() -> None:
    data = [{"meaning": "instance", "reference": {"reference": "Observation/1/_history/2"}}]
    assert outcome(deny(data=data), "2026-03-02T12:00") == "deny"
