-- What became of them. No status: no answer came.
UPDATE ledger.attempt t
SET answered_at = CASE WHEN a.status IS NULL THEN NULL ELSE clock_timestamp() END, status = a.status, outcome = a.outcome,
    answer = a.answer
FROM unnest(%(attempts)s::uuid[], %(statuses)s::int[], %(outcomes)s::text[], %(answers)s::bytea[])
  AS a (attempt_id, status, outcome, answer)
WHERE t.tenant = %(tenant)s AND t.attempt_id = a.attempt_id
