"""The gates a mapped candidate passes on its way to a verdict: encounter, consent, policy, mode — pure, over what was read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from fhir_writeback_dagster.canonical import CanonicalRecord
from fhir_writeback_dagster.config.tenants import Mode
from fhir_writeback_dagster.decide.stages import Reason, Ruling
from fhir_writeback_dagster.rules import modes
from fhir_writeback_dagster.rules.consent.model import ConsentDecision
from fhir_writeback_dagster.rules.consent.shape import bounds
from fhir_writeback_dagster.rules.encounters import takes_no_more
from fhir_writeback_dagster.rules.policy.cedar import PolicyDecision
from fhir_writeback_dagster.rules.target.capabilities import Target

#: An event may be written down a day before or after the encounter that it belongs to, as time zones and late entry have it.
ENCOUNTER_TOLERANCE = timedelta(days=1)

_EVENT_TIME = {
    "vital_sign": "effective",
    "lab_result": "effective",
    "observation": "effective",
    "medication_request": "authored",
    "immunization": "occurrence",
    "procedure": "start",
    "document": "date",
}


def event_day(record: CanonicalRecord) -> tuple[datetime, datetime] | None:
    """First and last instant that the record's event time can mean at its precision; None if it has none."""
    value = getattr(record, _EVENT_TIME.get(record.kind, ""), None)
    return span(value) if isinstance(value, str) else None


def event_span(record: CanonicalRecord, zone: str | None) -> tuple[datetime, datetime] | None:
    """:func:`event_day`, where a date is a day of ``zone``, or of any zone."""
    value = getattr(record, _EVENT_TIME.get(record.kind, ""), None)
    if not isinstance(value, str):
        return None
    return span(value) if "T" in value else (bounds(value, zone, last=False)[0], bounds(value, zone, last=True)[1])


def span(value: str) -> tuple[datetime, datetime]:
    """First and last instant of a FHIR dateTime; a date without a zone is taken as UTC, which the tolerance covers."""
    if "T" in value:
        instant = datetime.fromisoformat(value)
        return instant, instant
    year, *rest = (int(part) for part in value.split("-"))
    month = rest[0] if rest else 1
    day = rest[1] if len(rest) > 1 else 1
    start = datetime(year, month, day, tzinfo=UTC)
    if len(rest) == 2:
        end = start + timedelta(days=1)
    elif rest:
        end = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    else:
        end = datetime(year + 1, 1, 1, tzinfo=UTC)
    return start, end


def encounter_reasons(
    record: CanonicalRecord,
    status: str | None,
    period: tuple[datetime | None, datetime | None],
    closed_encounter: Literal["review", "permit"],
    *,
    stands_in: bool = False,
) -> list[Reason]:
    """What the matched encounter says against an automatic write; ``status`` None: the record names no encounter.

    ``stands_in``: it is not the one that the record names, which nobody knows.
    """
    if status is None:
        return []
    reasons = [Reason("semantic", "encounter_by_time", "encounter")] if stands_in else []
    if status == "entered-in-error":
        reasons.append(Reason("semantic", "encounter_in_error", "encounter"))
    elif takes_no_more(status, record.kind) and closed_encounter == "review":
        reasons.append(Reason("semantic", "encounter_closed", "encounter"))
    event, (start, end) = event_day(record), period
    if event is not None and (
        (start is not None and event[1] < start - ENCOUNTER_TOLERANCE)
        or (end is not None and event[0] > end + ENCOUNTER_TOLERANCE)
    ):
        reasons.append(Reason("semantic", "outside_encounter", "encounter"))
    return reasons


def target_reason(target: Target, payload: dict[str, Any], *, exists: bool) -> Reason | None:
    """What the EHR itself does not take: its matrix, its CapabilityStatement or its own API's form says so."""
    kind: str = payload["resourceType"]
    refusal = target.refusal(kind, "update") if exists else target.refusal(kind, "create", payload)
    return Reason("target", refusal, kind) if refusal else None


def rule(
    mode: Mode,
    semantic: Sequence[Reason],
    consent: ConsentDecision,
    none_found: Literal["permit", "review", "deny"],
    policy: PolicyDecision,
    *,
    sampled: bool = False,
) -> Ruling:
    """Put the gates together: a denial wins, then what holds the mode back, then any call for a person.

    ``sampled``: the write is in the sample that a person sees where the mode is ``sampled``.
    """
    policy_reason = Reason("policy", policy.outcome, ",".join(policy.policy_ids) or None)
    # What cannot be created never will be; what stands there and cannot be corrected by us, a person can correct.
    denials = [reason for reason in semantic if reason.layer == "target" and reason.code != "target_cannot_update"]
    reviews = [reason for reason in semantic if reason not in denials]
    if consent.outcome == "deny" or (consent.outcome == "none" and none_found == "deny"):
        denials.append(Reason("consent", f"consent_{consent.outcome}", consent.provision))
    elif consent.outcome == "none" and none_found == "review":
        reviews.append(Reason("consent", "consent_none"))
    if consent.unplaced:
        reviews.append(Reason("consent", "consent_patient_unclear"))
    if policy.outcome == "denied":
        denials.append(Reason("policy", "policy_denied", policy_reason.path))
    elif policy.outcome == "review":
        reviews.append(Reason("policy", "policy_review", policy_reason.path))
    if denials:
        return Ruling("denied", (*denials, *reviews))
    if not modes.writes(mode):
        return Ruling("not_written", (Reason("mode", f"mode_{mode}"), *reviews))
    if modes.needs_person(mode, sampled=sampled):
        reviews.append(Reason("mode", f"mode_{mode}"))
    if reviews:
        return Ruling("review", tuple(reviews))
    return Ruling("automatic", (policy_reason,))


def consent_version(consent: ConsentDecision) -> dict[str, Any]:
    """How the verdict names the consent that it was made on."""
    return {
        "outcome": consent.outcome,
        "id": consent.consent_id,
        "version": consent.version,
        "provision": consent.provision,
        "reason": consent.reason,
    }
