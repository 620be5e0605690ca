-- How each target stands: what waits for it, also while nothing may be sent; what holds it; how it answered in the last hour.
-- An attempt's id begins with its milliseconds, so the last hour is a range of the primary key.
CREATE OR REPLACE FUNCTION ops.targets() RETURNS TABLE (
  tenant text, target text, desired_state text, held_because text, held_until timestamptz, for_good boolean, failures int,
  unsent bigint, in_doubt bigint, mediated bigint, oldest timestamptz, next_due timestamptz, last_success timestamptz,
  answers bigint, p50_ms float8, p95_ms float8, unanswered bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH queue AS (
    SELECT o.tenant, c.target, 'ready'::pg_catalog.text AS state, o.since, NULL::pg_catalog.timestamptz AS not_before
    FROM decision.outbox o JOIN decision.candidate c ON c.tenant = o.tenant AND c.candidate_id = o.candidate_id
    UNION ALL
    SELECT k.tenant, k.target, k.state, k.created_at, k.not_before FROM ledger.work k
  ), waiting AS (
    SELECT q.tenant, q.target, min(q.since) AS oldest, min(q.not_before) AS next_due,
      count(*) FILTER (WHERE q.state IN ('ready', 'leased', 'retry_wait')) AS unsent,
      count(*) FILTER (WHERE q.state IN ('sending', 'unknown', 'reconciling')) AS in_doubt,
      count(*) FILTER (WHERE q.state = 'pending_target') AS mediated
    FROM queue q GROUP BY 1, 2
  ), known AS (
    SELECT t.tenant, t.target FROM ledger.target t UNION SELECT w.tenant, w.target FROM waiting w
    UNION SELECT s.tenant, s.target FROM mirror.sync s
  ), hour AS (
    SELECT (lpad(to_hex((extract(epoch FROM now() - interval '1 hour') * 1000)::pg_catalog.int8), 12, '0') || repeat('0', 20))::pg_catalog.uuid AS first
  )
  SELECT k.tenant, k.target, coalesce(t.wish, 'running'),
    CASE WHEN t.held_until > now() THEN t.held_because END,
    CASE WHEN t.held_until > now() AND isfinite(t.held_until) THEN t.held_until END,
    coalesce(t.held_until > now() AND NOT isfinite(t.held_until), false), coalesce(t.failures, 0),
    coalesce(w.unsent, 0), coalesce(w.in_doubt, 0), coalesce(w.mediated, 0), w.oldest, w.next_due,
    done.answered_at, lately.answers, lately.p50, lately.p95, lately.unanswered
  FROM known k
  LEFT JOIN ledger.target t ON t.tenant = k.tenant AND t.target = k.target
  LEFT JOIN waiting w ON w.tenant = k.tenant AND w.target = k.target
  LEFT JOIN LATERAL (
    SELECT a.answered_at FROM ledger.attempt a JOIN ledger.intent i ON i.tenant = a.tenant AND i.intent_id = a.intent_id
    WHERE a.tenant = k.tenant AND i.target = k.target AND a.status BETWEEN 200 AND 299 ORDER BY a.attempt_id DESC LIMIT 1) done ON true
  CROSS JOIN LATERAL (
    SELECT count(a.answered_at) AS answers, count(*) - count(a.answered_at) AS unanswered,
      percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM a.answered_at - a.sent_at) * 1000) AS p50,
      percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM a.answered_at - a.sent_at) * 1000) AS p95
    FROM hour h JOIN ledger.attempt a ON a.tenant = k.tenant AND a.attempt_id >= h.first
    JOIN ledger.intent i ON i.tenant = a.tenant AND i.intent_id = a.intent_id AND i.target = k.target) lately
$$;
REVOKE ALL ON FUNCTION ops.targets FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ops.targets TO fw_commit_login, fw_status_login;

-- Beside the columns that counts.sql lets its owner see.
CALL ops.show('decision.outbox', 'tenant, candidate_id, since');
CALL ops.show('ledger.work', 'tenant, target, state, created_at, not_before, lease_until');
CALL ops.show('ledger.attempt', 'tenant, attempt_id, intent_id, sent_at, answered_at, status');
CALL ops.show('ledger.target', 'tenant, target, wish, held_until, held_because, failures');

CALL ops.give('ops.targets', 'fw_overview');
