"""Files in landing zones: which are complete, which are new, whose they are."""
