"""Real FHIR and OAuth servers as processes."""
