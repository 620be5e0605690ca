"""The four Dagster code locations; wiring only."""
