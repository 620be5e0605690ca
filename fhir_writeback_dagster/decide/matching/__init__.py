"""Whose row is this? Patients and encounters, by identifiers and by demographics."""
