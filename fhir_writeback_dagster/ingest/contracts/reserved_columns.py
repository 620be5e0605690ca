"""Columns that a reader makes and a contract may name."""

from __future__ import annotations

PATIENT_URL, ENCOUNTER_URL = "@patient", "@encounter"
