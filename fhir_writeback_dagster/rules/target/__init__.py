"""What an EHR takes: the vendors' matrix, its CapabilityStatement, its forms and its limits."""
