-- Take what is due of the locked patients, so many of each: lease, fence + 1, and everything that is known of each intent. A newer
-- revision waits behind an older one of its key that is still open.
WITH due AS MATERIALIZED (
  SELECT theirs.intent_id
  FROM unnest(%(patients)s::text[]) WITH ORDINALITY AS p (patient_id, place)
  CROSS JOIN LATERAL (
    SELECT w.intent_id
    FROM ledger.work w
    JOIN ledger.intent i ON i.tenant = w.tenant AND i.intent_id = w.intent_id
    WHERE w.tenant = %(tenant)s AND w.target = %(target)s AND w.patient_id = p.patient_id
      AND w.state = ANY (%(claimable)s::text[]) AND w.not_before <= now()
      AND NOT EXISTS (
        SELECT FROM ledger.work o
        WHERE o.tenant = %(tenant)s AND o.target = %(target)s AND o.patient_id = p.patient_id
          AND o.state = ANY (%(held)s::text[]))
      AND NOT EXISTS (
        SELECT FROM ledger.intent older
        WHERE older.tenant = i.tenant AND older.target = i.target AND older.business_key = i.business_key
          AND older.revision < i.revision AND older.state <> ALL (%(ends)s::text[]))
    ORDER BY w.priority, w.not_before, w.intent_id
    LIMIT %(share)s
    FOR UPDATE OF w SKIP LOCKED
  ) theirs
  ORDER BY p.place
  LIMIT %(items)s
), taken AS (
  UPDATE ledger.work w
  SET state = m.becomes, fence = w.fence + 1, worker = %(worker)s,
      lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
  FROM due
  JOIN ledger.work v ON v.tenant = %(tenant)s AND v.intent_id = due.intent_id
  JOIN unnest(%(claimable)s::text[], %(becomes)s::text[]) AS m (state, becomes) ON m.state = v.state
  WHERE w.tenant = %(tenant)s AND w.intent_id = due.intent_id
  RETURNING w.intent_id, w.state, w.fence, w.sends, w.priority, w.sent_at, w.refused_since
), told AS (
  UPDATE ledger.intent i
  SET state = t.state, fence = t.fence, changed_at = now()
  FROM taken t
  WHERE i.tenant = %(tenant)s AND i.intent_id = t.intent_id
  RETURNING i.*, t.sends, t.priority, t.sent_at, t.refused_since
)
SELECT t.intent_id, t.state, t.fence, t.unanswered, t.accepted, t.business_key, t.revision, t.candidate_id, t.verdict_id,
  t.record_id, t.source, t.kind, t.resource_type, t.patient_id, t.encounter_id, t.content_hash, t.reason, t.sends, t.sent_at,
  t.refused_since, c.payload, c.must_keep,
  l.resource_type, l.resource_id, l.version_id, l.etag, l.origin, l.owner_source, l.revision, l.content_hash, l.state, l.base,
  p.candidate_id, p.payload
FROM told t
JOIN decision.candidate c ON c.tenant = t.tenant AND c.candidate_id = t.candidate_id
LEFT JOIN ledger.link l ON l.tenant = t.tenant AND l.target = t.target AND l.business_key = t.business_key
LEFT JOIN ledger.intent li ON li.tenant = l.tenant AND li.intent_id = l.intent_id
LEFT JOIN decision.candidate p ON p.tenant = li.tenant AND p.candidate_id = li.candidate_id
ORDER BY t.priority, t.created_at, t.intent_id
