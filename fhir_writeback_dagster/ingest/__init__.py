"""From extracts in a landing zone to canonical records."""
