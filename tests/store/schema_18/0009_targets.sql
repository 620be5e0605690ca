-- What holds a target back, by whom, and how much of its limits is used: over all runs of a tenant, so it stands here.

CREATE TABLE ledger.target (
  tenant       text NOT NULL,
  target       text NOT NULL,
  wish         text NOT NULL DEFAULT 'running' CHECK (wish IN ('running', 'draining', 'paused')),   -- a person's
  held_until   timestamptz,                              -- infinity: until a person releases it
  held_because text CHECK (held_because IN ('down', 'throttled', 'blackout', 'cap', 'drift')),
  failures     int NOT NULL DEFAULT 0,                   -- runs in a row that found it down: each waits twice as long
  changed_at   timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, target)
);

-- A rate window, as used by whoever took of it; one row each, begun anew when its time has come.
CREATE TABLE ledger.rate (
  tenant    text NOT NULL,
  target    text NOT NULL,
  name      text NOT NULL,
  starts_at timestamptz NOT NULL,
  used      int NOT NULL,
  PRIMARY KEY (tenant, target, name)
);

-- Send markers by hour: what a day usually brings, and what counts for the cap since a person last released it.
CREATE TABLE ledger.sent (
  tenant  text NOT NULL,
  target  text NOT NULL,
  hour    timestamptz NOT NULL,
  writes  int NOT NULL,
  counted int NOT NULL,
  PRIMARY KEY (tenant, target, hour)
);

CALL ops.isolate('ledger.target');
CALL ops.isolate('ledger.rate');
CALL ops.isolate('ledger.sent');
GRANT SELECT, INSERT, UPDATE ON ledger.target, ledger.rate, ledger.sent TO fw_commit;

-- As in 0007, but no run is asked for where nothing may be sent; of a target that drains, decide's queue is left alone.
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
