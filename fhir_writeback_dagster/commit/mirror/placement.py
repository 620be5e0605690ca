"""Whose a mirrored Consent is, where it names its patient by an identifier.

The mirror knows who bears the identifier, and it may be somebody else tomorrow: a merge moves a number to the survivor, and a
patient may be registered after the consent. So what a consent names is kept as the identifier's HMAC (``patient_key``), and whose
it is is found again in the transaction that changes who bears what. A consent that no patient, or more than one, could be named
by belongs to nobody (``patient_id`` null): it then stands against every write that it would deny (`rules.consent.evaluate`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from psycopg import Connection

from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.fhir.references import identifier_of, referenced
from fhir_writeback_dagster.rules.people.demographics import identifier_key

_PLACE: Final = """
WITH keyed AS (
  SELECT c.consent_id, c.patient_id, (
      SELECT CASE WHEN count(DISTINCT i.patient_id) = 1 THEN min(i.patient_id) END
      FROM mirror.patient_identifier i
      WHERE i.tenant = %(tenant)s AND i.target = %(target)s AND i.identifier = c.patient_key) AS whose
  FROM mirror.consent c
  WHERE c.tenant = %(tenant)s AND c.target = %(target)s AND c.patient_key IS NOT NULL
    AND (c.patient_id IS NULL OR c.patient_id = ANY (%(patients)s::text[]) OR c.patient_key IN (
      SELECT i.identifier FROM mirror.patient_identifier i
      WHERE i.tenant = %(tenant)s AND i.target = %(target)s AND i.patient_id = ANY (%(patients)s::text[])))
)
UPDATE mirror.consent c
SET patient_id = k.whose
FROM keyed k
WHERE c.tenant = %(tenant)s AND c.target = %(target)s AND c.consent_id = k.consent_id
  AND k.patient_id IS DISTINCT FROM k.whose
"""


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
    connection.execute(_PLACE, {"tenant": run.id, "target": run.tenant.ehr.target, "patients": sorted(patients)})
