-- The newest candidates of some states as `ledger.item_of` reads a claimed intent, as if each were one: nothing is claimed.
SELECT c.candidate_id, %(state)s, 0, false, false, c.business_key, c.revision, c.candidate_id, c.candidate_id,
  c.record_id, c.source, c.kind, c.resource_type, c.patient_id, c.encounter_id, c.content_hash, c.reason, 0, NULL::timestamptz,
  NULL::timestamptz, c.payload, c.must_keep,
  l.resource_type, l.resource_id, l.version_id, l.etag, l.origin, l.owner_source, l.revision, l.content_hash, l.state, l.base,
  p.candidate_id, p.payload
FROM decision.candidate c
LEFT JOIN ledger.link l ON l.tenant = c.tenant AND l.target = c.target AND l.business_key = c.business_key
LEFT JOIN ledger.intent li ON li.tenant = l.tenant AND li.intent_id = l.intent_id
LEFT JOIN decision.candidate p ON p.tenant = li.tenant AND p.candidate_id = li.candidate_id
WHERE c.tenant = %(tenant)s AND c.target = %(target)s AND c.state = ANY (%(states)s::text[])
  AND (%(kind)s::text IS NULL OR c.kind = %(kind)s) AND c.payload IS NOT NULL AND c.patient_id IS NOT NULL
  AND c.business_key IS NOT NULL
  AND NOT EXISTS (SELECT FROM ledger.intent i WHERE i.tenant = c.tenant AND i.candidate_id = c.candidate_id
                  AND i.state = 'committed')
ORDER BY c.decided_at DESC, c.candidate_id
LIMIT %(count)s
