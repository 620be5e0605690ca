-- Approved candidates become intents. One that was withdrawn opens again under its new verdict; any other conflict is a
-- revision that is known already, and changes nothing.
WITH wanted AS (
  SELECT x.intent_id, c.*
  FROM unnest(%(candidates)s::uuid[], %(intents)s::uuid[]) AS x (candidate_id, intent_id)
  JOIN decision.candidate c ON c.tenant = %(tenant)s AND c.candidate_id = x.candidate_id
  JOIN decision.verdict v ON v.tenant = c.tenant AND v.verdict_id = c.verdict_id
  WHERE c.state = 'approved' AND v.outcome = 'automatic'
), made AS (
  INSERT INTO ledger.intent AS i (tenant, intent_id, target, business_key, revision, candidate_id, verdict_id, record_id,
    source, kind, resource_type, patient_id, encounter_id, content_hash, state)
  SELECT tenant, intent_id, target, business_key, revision, candidate_id, verdict_id, record_id, source, kind, resource_type,
    patient_id, encounter_id, content_hash, %(ready)s
  FROM wanted
  ORDER BY intent_id
  ON CONFLICT (tenant, target, business_key, revision) DO UPDATE
  SET state = %(ready)s, candidate_id = excluded.candidate_id, verdict_id = excluded.verdict_id,
      record_id = excluded.record_id, source = excluded.source, patient_id = excluded.patient_id,
      encounter_id = excluded.encounter_id, content_hash = excluded.content_hash, reason = NULL, changed_at = now()
  WHERE i.state = ANY (%(reopens)s::text[])
  RETURNING i.*
), queued AS (
  INSERT INTO ledger.work (tenant, intent_id, target, patient_id, state, fence, priority)
  SELECT m.tenant, m.intent_id, m.target, m.patient_id, m.state, m.fence, coalesce(p.priority, %(usual)s)
  FROM made m
  LEFT JOIN unnest(%(kinds)s::text[], %(priorities)s::int[]) AS p (kind, priority) ON p.kind = m.kind
)
SELECT intent_id, target, business_key, revision, fence > 0 FROM made
