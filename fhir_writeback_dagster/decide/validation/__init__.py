"""Is this payload valid R4? Schema, invariants, references."""
