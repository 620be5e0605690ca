-- Workers that hold leases, and whose lock nobody holds.
SELECT held.worker
FROM (
  SELECT DISTINCT worker FROM ledger.work WHERE tenant = %(tenant)s AND target = %(target)s AND worker IS NOT NULL
) held
WHERE NOT EXISTS (
  SELECT FROM pg_locks l
  WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = %(class)s::int
    AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
    AND l.objid::bigint = (hashtext(%(tenant)s || '|' || held.worker)::bigint & 4294967295))
