-- What decide asks of a mirror that is filled on demand (`reads.mirror` of the matrix), and what commit answered last.

CREATE TABLE mirror.lookup (
  tenant       text NOT NULL,
  target       text NOT NULL,
  key          bytea NOT NULL,                           -- HMAC of what is looked for
  search       bytea NOT NULL,                           -- sealed: an identifier, family name and birth date, or a patient's id
  asked_at     timestamptz NOT NULL,
  needed_until timestamptz NOT NULL,                     -- whom it found stays in the mirror until then
  due_at       timestamptz,                              -- to be answered then; null: with each refresh
  answered_at  timestamptz,
  outcome      text CHECK (outcome IN ('found', 'none', 'too_many', 'unreliable', 'refused')),
  found        text[] NOT NULL DEFAULT '{}',             -- patient ids of the last answer
  PRIMARY KEY (tenant, target, key),
  CHECK ((answered_at IS NULL) = (outcome IS NULL))
);
CREATE INDEX lookup_due ON mirror.lookup (tenant, target, due_at) WHERE due_at IS NOT NULL;

CALL ops.isolate('mirror.lookup');
GRANT SELECT (tenant, target, key, needed_until, due_at, answered_at, outcome), INSERT, UPDATE (needed_until, due_at)
  ON mirror.lookup TO fw_decide;
GRANT SELECT, UPDATE, DELETE ON mirror.lookup TO fw_commit;

-- As in 0009, and the lookups that are due, in the mirror's lane.
CREATE OR REPLACE FUNCTION ops.pending(lane text) RETURNS TABLE (tenant text, items bigint, oldest timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
  SELECT w.tenant, count(*), min(w.since) FROM (
    SELECT x.tenant, x.received_at AS since FROM landing.extract x WHERE lane = 'ingest' AND x.state = 'landed'
    UNION ALL
    SELECT o.tenant, o.since FROM canonical.outbox o WHERE lane = 'decide'
    UNION ALL
    SELECT o.tenant, o.since FROM ledger.outbox o WHERE lane = 'decide'
    UNION ALL
    SELECT c.tenant, c.decided_at FROM decision.candidate c
      WHERE lane = 'decide' AND c.state = 'waiting' AND (c.give_up_at <= now() OR EXISTS (
        SELECT 1 FROM mirror.sync s WHERE s.tenant = c.tenant AND s.target = c.target AND s.changed_at > c.decided_at))
    UNION ALL
    SELECT l.tenant, l.due_at FROM mirror.lookup l WHERE lane = 'mirror' AND l.due_at <= now() AND l.needed_until > now()
    UNION ALL
    SELECT o.tenant, o.since FROM decision.outbox o WHERE lane = 'commit' AND NOT EXISTS (
      SELECT 1 FROM ledger.target t
      WHERE t.tenant = o.tenant AND (t.wish <> 'running' OR t.held_until > now()))
    UNION ALL
    SELECT k.tenant, k.not_before FROM ledger.work k
      WHERE lane = 'commit' AND (CASE WHEN k.state IN ('leased', 'sending', 'reconciling') THEN k.lease_until
                                      ELSE k.not_before END) <= now()
        AND NOT EXISTS (SELECT 1 FROM ledger.target t WHERE t.tenant = k.tenant AND t.target = k.target
                        AND (t.wish = 'paused' OR t.held_until > now()))
  ) w GROUP BY w.tenant ORDER BY w.tenant
$$;
