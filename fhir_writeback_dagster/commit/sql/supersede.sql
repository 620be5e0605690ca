-- A newer revision was accepted: what waits under an older one of its key is not sent any more. What is being sent, or may
-- have been, goes its way; the newer one waits for it (claim.sql).
WITH newest AS (
  SELECT target, business_key, max(revision) AS revision
  FROM unnest(%(targets)s::text[], %(keys)s::text[], %(revisions)s::int[]) AS n (target, business_key, revision)
  GROUP BY 1, 2
), old AS MATERIALIZED (
  SELECT w.intent_id
  FROM newest n
  JOIN ledger.intent i ON i.tenant = %(tenant)s AND i.target = n.target AND i.business_key = n.business_key
    AND i.revision < n.revision
  JOIN ledger.work w ON w.tenant = i.tenant AND w.intent_id = i.intent_id
  WHERE w.state = ANY (%(states)s::text[])
  ORDER BY w.intent_id
  FOR UPDATE OF w
), gone AS (
  DELETE FROM ledger.work w USING old WHERE w.tenant = %(tenant)s AND w.intent_id = old.intent_id
)
UPDATE ledger.intent i
SET state = %(becomes)s, reason = 'superseded', changed_at = now()
FROM old
WHERE i.tenant = %(tenant)s AND i.intent_id = old.intent_id
RETURNING i.intent_id
