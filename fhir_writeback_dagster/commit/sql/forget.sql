-- Drop from an on-demand mirror whom nothing needs: no lookup found them, no open work names them, and no merge ties them to
-- somebody who stays (whose person is whose is read from both sides of a merge).
WITH RECURSIVE stays (patient_id) AS (
  SELECT unnest(l.found) FROM mirror.lookup l WHERE l.tenant = %(tenant)s AND l.target = %(target)s
  UNION
  SELECT k.patient_id FROM ledger.work k WHERE k.tenant = %(tenant)s AND k.target = %(target)s
  UNION
  SELECT c.patient_id FROM decision.outbox o
  JOIN decision.candidate c ON c.tenant = o.tenant AND c.candidate_id = o.candidate_id
  WHERE o.tenant = %(tenant)s AND c.tenant = %(tenant)s AND c.target = %(target)s AND c.patient_id IS NOT NULL
  UNION
  SELECT c.patient_id FROM decision.candidate c
  WHERE c.tenant = %(tenant)s AND c.target = %(target)s AND c.state IN ('waiting', 'in_review') AND c.patient_id IS NOT NULL
), merged AS MATERIALIZED (
  SELECT p.patient_id, p.replaced_by FROM mirror.patient p
  WHERE p.tenant = %(tenant)s AND p.target = %(target)s AND p.replaced_by IS NOT NULL
), needed (patient_id) AS (
  SELECT patient_id FROM stays
  UNION
  SELECT either.patient_id
  FROM needed n
  JOIN merged m ON n.patient_id IN (m.patient_id, m.replaced_by)
  CROSS JOIN LATERAL (VALUES (m.patient_id), (m.replaced_by)) AS either (patient_id)
)
DELETE FROM mirror.patient p
WHERE p.tenant = %(tenant)s AND p.target = %(target)s AND p.patient_id NOT IN (SELECT n.patient_id FROM needed n)
