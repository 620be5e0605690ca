"""Governed write-back of scraped clinical extracts to EHRs over FHIR R4, as a Dagster project."""
