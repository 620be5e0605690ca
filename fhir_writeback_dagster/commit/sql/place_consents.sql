-- Give consents that name their patient by an identifier that patient, or none any more: of these patients, and the unplaced.
WITH keyed AS (
  SELECT c.consent_id, c.patient_id, (
      SELECT CASE WHEN count(DISTINCT i.patient_id) = 1 THEN min(i.patient_id) END
      FROM mirror.patient_identifier i
      WHERE i.tenant = %(tenant)s AND i.target = %(target)s AND i.identifier = c.patient_key) AS whose
  FROM mirror.consent c
  WHERE c.tenant = %(tenant)s AND c.target = %(target)s AND c.patient_key IS NOT NULL
    AND (c.patient_id IS NULL OR c.patient_id = ANY (%(patients)s::text[]) OR c.patient_key IN (
      SELECT i.identifier FROM mirror.patient_identifier i
      WHERE i.tenant = %(tenant)s AND i.target = %(target)s AND i.patient_id = ANY (%(patients)s::text[])))
)
UPDATE mirror.consent c
SET patient_id = k.whose
FROM keyed k
WHERE c.tenant = %(tenant)s AND c.target = %(target)s AND c.consent_id = k.consent_id
  AND k.patient_id IS DISTINCT FROM k.whose
