"""FHIR itself: times, codes, references, units, content that is the same, R4's definitions."""
