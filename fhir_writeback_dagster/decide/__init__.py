"""From canonical records to candidates with a verdict."""
