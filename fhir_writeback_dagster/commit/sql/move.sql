-- Steps of many intents at once. Each must still be held under the fence and in the state that the step starts from, and a
-- send marker needs a live lease; whatever else is written goes with the intents, and the fences they
-- were held under, that this statement returns.
WITH step AS (
  SELECT * FROM unnest(
    %(intents)s::uuid[], %(fences)s::bigint[], %(befores)s::text[], %(afters)s::text[], %(outcomes)s::text[],
    %(reasons)s::text[], %(waits)s::float8[], %(leases)s::float8[], %(sends)s::bool[], %(ended)s::bool[],
    %(unanswered)s::bool[], %(accepted)s::bool[], %(reads)s::text[])
  AS s (intent_id, fence, before, after, outcome, reason, wait_s, lease_s, sends, ended, unanswered, accepted, reads)
), held AS MATERIALIZED (
  SELECT s.*
  FROM step s
  JOIN ledger.work w ON w.tenant = %(tenant)s AND w.intent_id = s.intent_id
  WHERE w.fence = s.fence AND w.state = s.before
    AND (NOT s.sends OR w.lease_until > clock_timestamp())
  ORDER BY s.intent_id
  FOR UPDATE OF w
), queued AS (
  UPDATE ledger.work w
  SET state = h.after,
      not_before = CASE WHEN h.wait_s IS NULL THEN w.not_before
                        ELSE clock_timestamp() + make_interval(secs => h.wait_s) END,
      lease_until = CASE WHEN h.lease_s IS NULL THEN NULL ELSE clock_timestamp() + make_interval(secs => h.lease_s) END,
      worker = CASE WHEN h.lease_s IS NULL THEN NULL ELSE w.worker END,
      sent_at = CASE WHEN h.sends THEN clock_timestamp() ELSE w.sent_at END,
      sends = w.sends + h.sends::int,
      refused_since = CASE h.reads WHEN 'failed' THEN coalesce(w.refused_since, clock_timestamp())
                                   WHEN 'unmade' THEN w.refused_since END
  FROM held h
  WHERE w.tenant = %(tenant)s AND w.intent_id = h.intent_id AND NOT h.ended
), gone AS (
  DELETE FROM ledger.work w USING held h WHERE w.tenant = %(tenant)s AND w.intent_id = h.intent_id AND h.ended
)
UPDATE ledger.intent i
SET state = h.after, outcome = h.outcome, reason = h.reason, changed_at = now(), unanswered = h.unanswered,
    accepted = h.accepted
FROM held h
WHERE i.tenant = %(tenant)s AND i.intent_id = h.intent_id
RETURNING i.intent_id, h.fence
