"""What people at the hospital do in the EHR while our writes are under way; and what must be true of our writes then."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from fhir_writeback_dagster.sandbox.check import fact_of
from fhir_writeback_dagster.sandbox.drills.history import version_of
from fhir_writeback_dagster.sandbox.drills.tenant_under_test import TenantUnderTest
from fhir_writeback_dagster.sandbox.story.expected import Planted, Value


def revoke_consent(ward: TenantUnderTest, approved: Iterable[Planted]) -> None:
    """Every third patient withdraws consent: of what was ``approved`` and not yet sent, nothing may be written for them."""
    chart = ward.stage.server.chart
    revoked = {person.chart_id for person in ward.people[::3]}
    for patient in sorted(revoked):
        chart.update({**chart.read("Consent", f"c-{patient}"), "provision": {"type": "deny"}})
    ward.wanted.update({row.fact: None for row in approved if row.fact and row.fact.chart_id in revoked})
    ward.trouble("consent_revoked")


def deny_by_number(ward: TenantUnderTest, rows: Iterable[Planted]) -> None:
    """Every third patient denies, in a Consent that names them by their record number alone: of ``rows`` nothing may be written
    for them.
    """
    chart = ward.stage.server.chart
    denying = {person.chart_id: person.mrn for person in ward.people[1::3]}
    for patient, number in denying.items():
        named = {"identifier": {"system": ward.hospital.mrn_system, "value": number}}
        chart.update({**chart.read("Consent", f"c-{patient}"), "patient": named, "provision": {"type": "deny"}})
    ward.wanted.update({row.fact: None for row in rows if row.fact and row.fact.chart_id in denying})
    ward.trouble("denied_by_number")


@contextmanager
def denied_by_nobody(ward: TenantUnderTest) -> Iterator[None]:
    """While the block runs there is a denial that names its patient in words only: it may be anybody's."""
    chart, first = ward.stage.server.chart, ward.people[0].chart_id
    permit = {name: value for name, value in chart.read("Consent", f"c-{first}").items() if name not in ("id", "meta")}
    denial = chart.create({**permit, "patient": {"display": "A. Fairweather"}, "provision": {"type": "deny"}})
    ward.trouble("denied_by_nobody")
    try:
        yield
    finally:
        chart.delete("Consent", denial["id"])


def merge_patients(ward: TenantUnderTest) -> None:
    """Every third patient turns out to be somebody who is registered twice: their facts belong into the survivor's chart."""
    chart = ward.stage.server.chart
    merged = {person.chart_id: f"{person.chart_id}-survivor" for person in ward.people[::3]}
    for patient, survivor in merged.items():
        old, consent = chart.read("Patient", patient), chart.read("Consent", f"c-{patient}")
        numbers = [{**identifier, "value": f"{identifier['value']}9"} for identifier in old["identifier"]]
        reference = {"reference": f"Patient/{survivor}"}
        chart.load(
            [
                {**old, "id": survivor, "identifier": numbers},
                {**consent, "id": f"c-{survivor}", "patient": reference},
                {**old, "active": False, "link": [{"other": reference, "type": "replaced-by"}]},
            ]
        )
    ward.charts.update(merged.values())
    ward.wanted = {replace(fact, chart_id=merged.get(fact.chart_id, fact.chart_id)): value for fact, value in ward.wanted.items()}
    ward.told |= {replace(f, chart_id=merged[f.chart_id]): told for f, told in ward.told.items() if f.chart_id in merged}
    ward.trouble("patients_merged")


def edit_resources(ward: TenantUnderTest, rows: Sequence[Planted]) -> None:
    """Of three resources a person changes the value of one and deletes another: both are theirs from now on."""
    chart = ward.stage.server.chart
    standing = {fact_of(resource): resource for resource in chart.search("Observation")}
    for number, row in enumerate(rows):
        resource = standing.get(row.fact) if row.fact else None
        if row.fact is None or resource is None or number % 3 == 0:
            continue
        ward.theirs.add(row.fact)
        if number % 3 == 1:
            code, value, unit = row.value.parts[0]
            assert not isinstance(value, str)
            changed = {**resource, "valueQuantity": {**resource["valueQuantity"], "value": value + 7}}
            ward.by_people.add(version_of(chart.update(changed)))
            ward.wanted[row.fact] = Value(((code, value + 7, unit),))
        else:
            chart.delete("Observation", resource["id"])
            ward.wanted[row.fact] = None
    ward.trouble("edited_in_ehr")
