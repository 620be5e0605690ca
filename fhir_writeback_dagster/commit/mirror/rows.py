"""What the mirror keeps of a Patient, an Encounter and a Consent: pure readings of R4 resources."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from fhir_writeback_dagster.commit.protocol.answer import dicts
from fhir_writeback_dagster.rules.fhir.references import referenced
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.rules.fhir.resource_url import comparable, own_url
from fhir_writeback_dagster.rules.fhir.time import instant


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which version of which resource this is; ``last_updated`` is an instant in UTC."""

    id: str
    version_id: str | None
    last_updated: datetime | None


def stamp(resource: Resource) -> Stamp:
    meta = resource.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    version, updated = meta.get("versionId"), meta.get("lastUpdated")
    point = instant(updated) if isinstance(updated, str) else None
    fraction = timedelta(microseconds=int(point[1][:6].ljust(6, "0"))) if point and point[1] else timedelta()
    return Stamp(resource["id"], version if isinstance(version, str) else None, point[0] + fraction if point else None)


def identifiers(resource: Resource, base_url: str, *, old: bool = False) -> list[tuple[str, str]]:
    """(system, value as it is compared) of each identifier that has both and is in use, or was: ``old``; and the resource's own
    URL.
    """
    stated = [
        (one["system"], one["value"])
        for one in dicts(resource.get("identifier"))
        if isinstance(one.get("system"), str) and isinstance(one.get("value"), str) and (old or one.get("use") != "old")
    ]
    own = own_url(base_url, resource["resourceType"], resource["id"])
    return [(system, comparable(system, value)) for system, value in (*stated, own)]


def is_active(patient: Resource) -> bool:
    return patient.get("active") is not False


def is_deceased(patient: Resource) -> bool:
    return patient.get("deceasedBoolean") is True or isinstance(patient.get("deceasedDateTime"), str)


def replaced_by(patient: Resource, bases: Iterable[str]) -> str | None:
    """The survivor of a merge (Patient.link of type replaced-by)."""
    for link in dicts(patient.get("link")):
        if link.get("type") == "replaced-by":
            return referenced(link.get("other"), "Patient", bases) or "unknown"
    return None


def linked(patient: Resource, bases: Iterable[str], *types: str) -> set[str]:
    """Ids of the patients whom links of these types name: ``replaced-by`` (merged into them), ``replaces``."""
    others = (link.get("other") for link in dicts(patient.get("link")) if link.get("type") in types)
    return {found for other in others if (found := referenced(other, "Patient", bases))}


def period(encounter: Resource, time_zone: str) -> tuple[datetime | None, datetime | None]:
    """First and last instant of Encounter.period; a date without a time is that whole day at the hospital."""
    found = encounter.get("period")
    found = found if isinstance(found, dict) else {}
    return _instant(found.get("start"), time_zone, last=False), _instant(found.get("end"), time_zone, last=True)


def _instant(value: object, time_zone: str, *, last: bool) -> datetime | None:
    if not isinstance(value, str):
        return None
    point = instant(value)
    if point is not None:
        return point[0]
    try:
        parts = [int(part) for part in value.split("-")]
        day = datetime(parts[0], parts[1] if len(parts) > 1 else 1, parts[2] if len(parts) > 2 else 1, tzinfo=ZoneInfo(time_zone))
        if not last:
            return day.astimezone(UTC)
        following = {
            1: lambda: day.replace(year=day.year + 1),
            2: lambda: (day.replace(day=28) + timedelta(days=4)).replace(day=1),
            3: lambda: day + timedelta(days=1),
        }[len(parts)]()
        return following.astimezone(UTC)
    except (ValueError, OverflowError, KeyError):  # also the last day of all time, by which some mean that there is no end
        return None
