-- Let them go: each goes back to decide, in the state of one whose verdict no longer stands.
WITH found AS MATERIALIZED (
  SELECT DISTINCT i.intent_id, i.candidate_id
  FROM quarantine.item q
  JOIN ledger.intent i ON i.tenant = q.tenant AND i.intent_id = q.intent_id
  WHERE q.tenant = %(tenant)s AND q.layer = 'commit' AND q.code = %(code)s AND q.state = 'open'
    AND i.target = %(target)s AND i.state = %(before)s
), moved AS (
  UPDATE ledger.intent i
  SET state = %(after)s, reason = %(released)s, changed_at = now()
  FROM found f
  WHERE i.tenant = %(tenant)s AND i.intent_id = f.intent_id AND i.state = %(before)s
  RETURNING i.intent_id, i.candidate_id
), closed AS (
  UPDATE quarantine.item q
  SET state = 'released'
  FROM moved m
  WHERE q.tenant = %(tenant)s AND q.intent_id = m.intent_id AND q.state = 'open'
), returned AS (
  INSERT INTO ledger.outbox (tenant, candidate_id) SELECT %(tenant)s, candidate_id FROM moved ON CONFLICT DO NOTHING
)
SELECT intent_id FROM moved ORDER BY intent_id
