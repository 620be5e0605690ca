-- The patients whose work is due, longest waiting first, none of whom has a request in flight; each locked for the rest of
-- the transaction, so that a second worker takes other patients. (A lock that is taken and not used does no harm.)
SELECT patient_id FROM (
  SELECT patient_id, min(place) AS place FROM (
    SELECT w.patient_id, row_number() OVER (ORDER BY w.priority, w.not_before) AS place
    FROM ledger.work w
    WHERE w.tenant = %(tenant)s AND w.target = %(target)s
      AND w.state = ANY (%(claimable)s::text[]) AND w.not_before <= now()
      AND NOT EXISTS (
        SELECT FROM ledger.work o
        WHERE o.tenant = w.tenant AND o.target = w.target AND o.patient_id = w.patient_id
          AND o.state = ANY (%(held)s::text[]))
    ORDER BY w.priority, w.not_before
    LIMIT %(items)s
  ) due
  GROUP BY patient_id
  ORDER BY place
) waiting
WHERE pg_try_advisory_xact_lock(hashtextextended(%(tenant)s || '|' || %(target)s || '|' || patient_id, 0))
