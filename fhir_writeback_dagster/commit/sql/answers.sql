-- What became of them. No status: no answer came.
UPDATE ledger.attempt t
SET answered_at = CASE WHEN a.status IS NULL THEN NULL ELSE clock_timestamp() END, status = a.status, outcome = a.outcome,
    answer = a.answer, ehr_request_id = a.ehr_request_id, located = a.located
FROM unnest(%(attempts)s::uuid[], %(statuses)s::int[], %(outcomes)s::text[], %(answers)s::bytea[], %(ehr_request_ids)s::text[],
            %(located)s::text[])
  AS a (attempt_id, status, outcome, answer, ehr_request_id, located)
WHERE t.tenant = %(tenant)s AND t.attempt_id = a.attempt_id
