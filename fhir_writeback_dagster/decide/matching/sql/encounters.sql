-- The encounters that bear these identifiers.
-- `patients` is the encounter's patient and everyone whom merges replaced that patient by.
WITH RECURSIVE hit AS (
  SELECT i.identifier, e.encounter_id, e.patient_id, e.status, e.starts_at, e.ends_at
  FROM mirror.encounter_identifier i
  JOIN mirror.encounter e ON e.tenant = i.tenant AND e.target = i.target AND e.encounter_id = i.encounter_id
  WHERE i.tenant = %(tenant)s AND i.target = %(target)s AND i.identifier = ANY(%(digests)s)
), chain AS (
  SELECT h.patient_id AS origin, h.patient_id AS reached FROM hit h WHERE h.patient_id IS NOT NULL
  UNION
  SELECT c.origin, p.replaced_by
  FROM chain c JOIN mirror.patient p ON p.patient_id = c.reached
  WHERE p.tenant = %(tenant)s AND p.target = %(target)s AND p.replaced_by IS NOT NULL
)
SELECT h.identifier, h.encounter_id, h.status, h.starts_at, h.ends_at,
       ARRAY(SELECT c.reached FROM chain c WHERE c.origin = h.patient_id)
FROM hit h
