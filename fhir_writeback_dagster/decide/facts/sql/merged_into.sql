-- Who was merged into these patients, one after the other too.
-- UNION drops what was found already, so that a circle ends.
WITH RECURSIVE merged (survivor, gone) AS (
  SELECT replaced_by, patient_id FROM mirror.patient
  WHERE tenant = %(tenant)s AND target = %(target)s AND replaced_by = ANY (%(patients)s)
  UNION
  SELECT m.survivor, p.patient_id FROM merged m
  JOIN mirror.patient p ON p.tenant = %(tenant)s AND p.target = %(target)s AND p.replaced_by = m.gone
)
SELECT survivor, gone FROM merged WHERE gone <> survivor
