"""One module a vendor whose behaviour needs code; `generic` speaks FHIR R4 as it is written."""
