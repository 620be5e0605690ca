"""The database: connections and roles, sealing, advisory locks, migrations and the SQL of the schemas."""
