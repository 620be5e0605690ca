"""Bytes of a file to rows of text: CSV, JSON lines, Parquet, HTML tables, FHIR resources."""
