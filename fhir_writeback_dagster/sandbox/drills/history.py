"""What the EHR's own history says of our writes: every version that was ever stored, whatever stands there now.

What was put into another patient's resource and put right again, or written over a denial and retracted, is seen here and nowhere
else. The ledger is not asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.sandbox.check import agree, fact_of, value_of
from fhir_writeback_dagster.sandbox.story.expected import FactKey, Value

Version = tuple[str, str]
"""`Observation/1`, and its `meta.versionId`."""


def name_of(resource: Resource) -> str:
    return f"{resource['resourceType']}/{resource['id']}"


def version_of(resource: Resource) -> Version:
    return name_of(resource), str(resource["meta"]["versionId"])


def over_denial(versions: Iterable[Resource], denied_since: Mapping[str, datetime], grace: timedelta) -> set[str]:
    """Names of the resources with a version stored for a patient who had denied it for longer than ``grace``.

    :param denied_since: by patient id, for those whose active Consent denies now.
    :param grace: how old the mirror may be that a write is sent on, and how long the write may be under way.
    """
    return {
        name_of(version)
        for version in versions
        if (since := denied_since.get(fact_of(version).chart_id)) and _stored_at(version) > since + grace
    }


def of_another(versions: Sequence[Resource], told: Mapping[FactKey, Sequence[Value]], by_people: Collection[Version]) -> set[str]:
    """Names of the resources that hold, or held once, what nobody told of their fact: they are another's, or changed as one.

    :param told: every value that an extract told of a fact. A resource that says one of its own fact is right at that version.
    :param by_people: versions that we had no hand in.
    """
    wrong: set[str] = set()
    facts: dict[str, set[FactKey]] = defaultdict(set)
    for version in versions:
        if version_of(version) in by_people:
            continue
        fact = fact_of(version)
        facts[name_of(version)].add(fact)
        if not any(agree(value_of(version), value) for value in told.get(fact, ())):
            wrong.add(name_of(version))
    return wrong | {name for name, ever in facts.items() if len(ever) > 1}


def denials(consents: Iterable[Resource], numbers: Mapping[str, str]) -> dict[str, datetime]:
    """Since when an active Consent of each patient denies everything, by patient id; those that permit are left out.

    :param consents: as they stand in the EHR; each names its patient by `Patient/1` or by an identifier.
    :param numbers: the patient id of each record number.
    """
    found: dict[str, datetime] = {}
    for consent in consents:
        if consent.get("status") == "active" and (consent.get("provision") or {}).get("type") == "deny":
            named = consent.get("patient") or {}
            number = str((named.get("identifier") or {}).get("value", ""))
            patient = str(named.get("reference", "")).removeprefix("Patient/") or numbers.get(number, "")
            found[patient] = min(_stored_at(consent), found.get(patient, _stored_at(consent)))
    return found


def _stored_at(resource: Resource) -> datetime:
    return datetime.fromisoformat(resource["meta"]["lastUpdated"])
