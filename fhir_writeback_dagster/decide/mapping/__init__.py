"""Versioned mappings from canonical records to FHIR, compiled when they are loaded."""
