"""Columns that a reader makes and no file delivers."""

from __future__ import annotations

#: fhir: the URL of the Patient and of the Encounter that a resource names; their elements are the columns ``@patient.…``.
PATIENT_URL, ENCOUNTER_URL = "@patient", "@encounter"

#: Of a line that is no row: the reason code, and the line as it was delivered.
BROKEN, LINE = "@broken", "@line"

#: fhir: reason and element of what a resource says twice and differently (rules/fhir/contradictions.py).
CONTRADICTION = "@contradiction"

#: fhir: a resource of a type that nobody writes, as JSON; of its elements, none is a column.
UNREAD_RESOURCE = "@resource"
