-- Records to decide again: commit sent them back, or they waited for something and the mirror has changed, or for too long.
SELECT record_id FROM decision.candidate
WHERE tenant = %(tenant)s AND target = %(target)s
  AND candidate_id = ANY (ARRAY(SELECT candidate_id FROM ledger.outbox WHERE tenant = %(tenant)s LIMIT %(limit)s))
UNION
SELECT w.record_id FROM decision.candidate w
WHERE w.tenant = %(tenant)s AND w.target = %(target)s AND w.state = 'waiting' AND (w.give_up_at <= %(now)s OR w.decided_at < (
  SELECT max(s.changed_at) FROM mirror.sync s WHERE s.tenant = %(tenant)s AND s.target = %(target)s))
LIMIT %(limit)s
