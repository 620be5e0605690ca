"""Whose a mirrored Consent is, where it names its patient by an identifier.

The mirror knows who bears the identifier, and it may be somebody else tomorrow: a merge moves a number to the survivor, and a
patient may be registered after the consent. So what a consent names is kept as the identifier's HMAC (``patient_key``), and whose
it is is found again in the transaction that changes who bears what. A consent that no patient, or more than one, could be named
by belongs to nobody (``patient_id`` null): it then stands against every write that it would deny (`rules.consent.evaluate`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.commit.sqlfile import statement
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.fhir.references import identifier_of, referenced
from fhir_writeback_dagster.rules.people.demographics import identifier_key


def named_patient(run: RunContext, consent: dict[str, Any]) -> tuple[str | None, bytes | None]:
    """The patient's id that a Consent names, or the HMAC of the identifier that it names instead; neither: nobody can tell."""
    reference = consent.get("patient")
    patient = referenced(reference, "Patient", run.tenant.ehr.bases)
    if patient is not None:
        return patient, None
    identifier = identifier_of(reference)
    return None, run.identity.digest(*identifier_key(*identifier)) if identifier else None


def place_consents(connection: Connection[Any], run: RunContext, patients: Collection[str]) -> None:
    """Find anew whose the consents are that name their patient by an identifier, after ``patients`` were written or are gone."""
    connection.execute(
        statement("place_consents"), {"tenant": run.id, "target": run.tenant.ehr.target, "patients": sorted(patients)}
    )
