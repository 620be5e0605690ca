-- The patients whose work is due, the most urgent and longest waiting first, none of whom has a request in flight; each locked
-- for the rest of the transaction, so that a second worker takes other patients. (A lock that is taken and not used does no harm.)
SELECT patient_id FROM (
  SELECT w.patient_id
  FROM ledger.work w
  WHERE w.tenant = %(tenant)s AND w.target = %(target)s
    AND w.state = ANY (%(claimable)s::text[]) AND w.not_before <= now()
    AND w.patient_id NOT IN (
      SELECT o.patient_id FROM ledger.work o
      WHERE o.tenant = %(tenant)s AND o.target = %(target)s AND o.state = ANY (%(held)s::text[]))
  GROUP BY w.patient_id
  ORDER BY min(w.priority), min(w.not_before)
  LIMIT %(items)s
) waiting
WHERE pg_try_advisory_xact_lock(hashtextextended(%(tenant)s || '|' || %(target)s || '|' || patient_id, 0))
