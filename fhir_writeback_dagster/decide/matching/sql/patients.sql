-- The patients with these ids, and everyone whom merges replaced them by.
-- UNION, not UNION ALL: a cycle of merges brings nothing new and so ends. `body` comes only for who must be compared, which
-- spares the reading of a resource (kilobytes, out of line) for the many rows that name their patient by a number alone.
WITH RECURSIVE chain AS (
  SELECT p.patient_id, p.replaced_by, p.replaced_by IS NOT NULL OR p.patient_id = ANY(%(compared)s) AS compared
  FROM mirror.patient p
  WHERE p.tenant = %(tenant)s AND p.target = %(target)s AND p.patient_id = ANY(%(patients)s)
  UNION
  SELECT p.patient_id, p.replaced_by, true
  FROM chain c JOIN mirror.patient p ON p.patient_id = c.replaced_by
  WHERE p.tenant = %(tenant)s AND p.target = %(target)s
), needed AS (
  SELECT c.patient_id, bool_or(c.compared) AS compared FROM chain c GROUP BY c.patient_id
)
SELECT p.patient_id, p.active, p.deceased, p.replaced_by, CASE WHEN n.compared THEN p.body END
FROM needed n JOIN mirror.patient p ON p.patient_id = n.patient_id
WHERE p.tenant = %(tenant)s AND p.target = %(target)s
