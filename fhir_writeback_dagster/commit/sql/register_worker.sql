-- A lock that lives as long as this connection; whoever has the name already is at work all the same.
SELECT pg_try_advisory_lock(%(class)s, hashtext(%(tenant)s || '|' || %(worker)s))
