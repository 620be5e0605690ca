-- What the re-check looks at, for intents that are about to be sent: candidate and verdict, the patient and the encounter as
-- mirrored, whom the matched identifier leads to (over merges), what else is known of the business key.
WITH RECURSIVE wanted AS MATERIALIZED (
  SELECT i.*, c.state AS candidate_state, c.verdict_id AS candidate_verdict, c.matched_by, c.context,
    v.outcome AS verdict, v.expires_at, e.encounter_id IS NOT NULL AS encounter_known, e.patient_id AS encounter_patient,
    e.status AS encounter_status
  FROM ledger.intent i
  JOIN decision.candidate c ON c.tenant = i.tenant AND c.candidate_id = i.candidate_id
  JOIN decision.verdict v ON v.tenant = i.tenant AND v.verdict_id = i.verdict_id
  LEFT JOIN mirror.encounter e ON e.tenant = i.tenant AND e.target = i.target AND e.encounter_id = i.encounter_id
  WHERE i.tenant = %(tenant)s AND i.intent_id = ANY (%(intents)s::uuid[])
), held AS MATERIALIZED (
  SELECT DISTINCT h.identifier, h.patient_id
  FROM wanted w
  JOIN mirror.patient_identifier h ON h.tenant = w.tenant AND h.target = w.target AND h.identifier = w.matched_by
), seed AS (
  SELECT patient_id FROM held
  UNION
  SELECT encounter_patient FROM wanted WHERE encounter_patient IS NOT NULL
), chain (origin, reached) AS (
  SELECT patient_id, patient_id FROM seed
  UNION
  SELECT c.origin, p.replaced_by
  FROM chain c
  JOIN mirror.patient p ON p.tenant = %(tenant)s AND p.target = %(target)s AND p.patient_id = c.reached
  WHERE p.replaced_by IS NOT NULL
)
SELECT w.intent_id, w.candidate_state = 'approved' AND w.candidate_verdict = w.verdict_id AND w.verdict = 'automatic',
  w.expires_at > %(now)s, w.context,
  p.patient_id IS NOT NULL, p.active, p.deceased, p.replaced_by IS NOT NULL,
  w.matched_by IS NOT NULL,
  ARRAY(
    SELECT DISTINCT c.reached
    FROM held h
    JOIN chain c ON c.origin = h.patient_id
    LEFT JOIN mirror.patient q ON q.tenant = w.tenant AND q.target = w.target AND q.patient_id = c.reached
    WHERE h.identifier = w.matched_by AND q.replaced_by IS NULL),
  w.encounter_known, w.encounter_status,
  ARRAY(SELECT c.reached FROM chain c WHERE c.origin = w.encounter_patient),
  l.revision > w.revision OR EXISTS (
    SELECT FROM ledger.intent newer
    WHERE newer.tenant = w.tenant AND newer.target = w.target AND newer.business_key = w.business_key
      AND newer.revision > w.revision AND newer.state <> ALL (%(dropped)s::text[])),
  l.revision IS NULL AND EXISTS (
    SELECT FROM ledger.intent older
    WHERE older.tenant = w.tenant AND older.target = w.target AND older.business_key = w.business_key
      AND older.revision < w.revision AND older.state = %(in_review)s AND (older.unanswered OR older.accepted)),
  EXISTS (
    SELECT FROM review.task t
    WHERE t.tenant = w.tenant AND t.candidate_id = w.candidate_id AND t.state = 'approved'
      AND t.content_hash = w.content_hash)
FROM wanted w
LEFT JOIN mirror.patient p ON p.tenant = w.tenant AND p.target = w.target AND p.patient_id = w.patient_id
LEFT JOIN ledger.link l ON l.tenant = w.tenant AND l.target = w.target AND l.business_key = w.business_key
