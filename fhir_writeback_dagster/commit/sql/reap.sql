-- Leases that ran out: their holder is dead, stopped or cut off. The fence rises, so that it can write nothing any more. Of a
-- worker that is known to be gone only what it may have sent keeps its lease: the request can be on its way still.
WITH dead AS MATERIALIZED (
  SELECT w.intent_id, w.state AS was
  FROM ledger.work w
  WHERE w.tenant = %(tenant)s AND w.target = %(target)s AND w.state = ANY (%(states)s::text[])
    AND (w.lease_until <= clock_timestamp()
         OR (w.worker = ANY (%(gone)s::text[]) AND w.state <> ALL (%(unanswered_from)s::text[])))
  ORDER BY w.intent_id
  FOR UPDATE SKIP LOCKED
), freed AS (
  UPDATE ledger.work w
  SET state = m.becomes, fence = w.fence + 1, worker = NULL, lease_until = NULL,
      not_before = CASE WHEN m.waits THEN clock_timestamp() + make_interval(secs => %(quiet_s)s) ELSE w.not_before END
  FROM dead
  JOIN unnest(%(states)s::text[], %(becomes)s::text[], %(waits)s::bool[]) AS m (state, becomes, waits) ON m.state = dead.was
  WHERE w.tenant = %(tenant)s AND w.intent_id = dead.intent_id
  RETURNING w.intent_id, w.fence, w.state, dead.was
)
UPDATE ledger.intent i
SET state = f.state, fence = f.fence, reason = 'lease_expired', changed_at = now(),
    unanswered = i.unanswered OR f.was = ANY (%(unanswered_from)s::text[])
FROM freed f
WHERE i.tenant = %(tenant)s AND i.intent_id = f.intent_id
RETURNING i.intent_id, f.was, i.state, i.fence
