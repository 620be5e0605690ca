"""Running it: services, processes, environments, the embedded PostgreSQL, reports."""
