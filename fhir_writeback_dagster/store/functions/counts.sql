-- What sensors, status and metrics may know across tenants: ids, counts and times, through named functions only.

-- Work that waits in a lane, by tenant. `oldest` is when the oldest of it began to wait. None waits where nothing may be sent; of a
-- target that drains, decide's queue is left alone.
CREATE OR REPLACE FUNCTION ops.pending(lane text) RETURNS TABLE (tenant text, items bigint, oldest timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

-- How a run left each landing zone, and what landed and was not read yet, by tenant and source.
CREATE OR REPLACE FUNCTION ops.zones() RETURNS TABLE (tenant text, source text, listing bytea, look_again_at timestamptz,
                                                      landed bigint, oldest timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT tenant, source, z.listing, z.look_again_at, coalesce(x.landed, 0), x.oldest
  FROM landing.zone z
  FULL JOIN (SELECT tenant, source, count(*) AS landed, min(received_at) AS oldest
             FROM landing.extract WHERE state = 'landed' GROUP BY 1, 2) x USING (tenant, source)
$$;

-- How old each tenant's mirror is (the oldest of its resource types) and who waits for a younger one.
CREATE OR REPLACE FUNCTION ops.mirrors() RETURNS TABLE (tenant text, target text, refreshed_at timestamptz, waiting bigint,
                                             last_give_up_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(s.tenant, c.tenant), coalesce(s.target, c.target), s.refreshed_at, coalesce(c.waiting, 0), c.last_give_up_at
  FROM (SELECT tenant, target, min(refreshed_at) AS refreshed_at FROM mirror.sync GROUP BY 1, 2) s
  FULL JOIN (SELECT tenant, target, count(*) AS waiting, max(give_up_at) AS last_give_up_at
             FROM decision.candidate WHERE state = 'waiting' GROUP BY 1, 2) c USING (tenant, target)
$$;

-- Where every row that was read stands now, one row in exactly one end; counts only.
CREATE OR REPLACE FUNCTION ops.row_ends() RETURNS TABLE (tenant text, ending text, reason text, rows bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT e.tenant, e.ending, e.reason, count(*) FROM (
    SELECT r.tenant,
      CASE
        WHEN r.disposition <> 'record' THEN r.disposition
        WHEN c.candidate_id IS NULL THEN 'waiting'
        WHEN c.state <> 'approved' THEN c.state
        WHEN i.intent_id IS NULL OR i.state = 'withdrawn' THEN 'waiting'
        WHEN i.state = 'committed' THEN CASE i.outcome WHEN 'reconciled' THEN 'created' ELSE i.outcome END
        WHEN i.state = 'discarded' THEN 'stale'
        WHEN i.state IN ('quarantined', 'in_review') THEN i.state
        ELSE 'waiting'
      END AS ending,
      CASE
        WHEN r.disposition <> 'record' THEN r.reason
        WHEN c.candidate_id IS NULL THEN 'undecided'
        WHEN c.state <> 'approved' THEN c.reason
        WHEN i.intent_id IS NULL THEN 'uncommitted'
        ELSE coalesce(i.reason, i.state)
      END AS reason
    FROM canonical.row r
    LEFT JOIN decision.candidate c ON c.tenant = r.tenant AND c.record_id = r.record_id
    LEFT JOIN ledger.intent i ON i.tenant = c.tenant AND i.target = c.target
      AND i.business_key = c.business_key AND i.revision = c.revision AND i.candidate_id = c.candidate_id
  ) e GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
$$;

CREATE OR REPLACE FUNCTION ops.stages() RETURNS TABLE (tenant text, extracts bigint, refused bigint, rows bigint, canonical bigint,
                                            candidates bigint, created bigint, updated bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT t.tenant,
    (SELECT count(*) FROM landing.extract x WHERE x.tenant = t.tenant AND x.state = 'ingested'),
    (SELECT count(*) FROM landing.extract x WHERE x.tenant = t.tenant AND x.state = 'refused'),
    (SELECT count(*) FROM canonical.row r WHERE r.tenant = t.tenant),
    (SELECT count(*) FROM canonical.record r WHERE r.tenant = t.tenant),
    (SELECT count(*) FROM decision.candidate c WHERE c.tenant = t.tenant),
    (SELECT count(*) FROM ledger.intent i WHERE i.tenant = t.tenant AND i.outcome IN ('created', 'reconciled')),
    (SELECT count(*) FROM ledger.intent i WHERE i.tenant = t.tenant AND i.outcome = 'updated')
  FROM ops.tenant t ORDER BY t.tenant
$$;

-- Why extracts were refused, by source and version of its contract; where the latest of each kind breaks, if it says so.
CREATE OR REPLACE FUNCTION ops.refusals() RETURNS TABLE (tenant text, source text, version int, reason text, extracts bigint,
                                              line bigint, byte bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT x.tenant, x.source, x.source_version, x.refusal, count(*),
    (array_agg(x.refused_line ORDER BY x.received_at DESC))[1], (array_agg(x.refused_byte ORDER BY x.received_at DESC))[1]
  FROM landing.extract x WHERE x.state = 'refused' GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
$$;

CREATE OR REPLACE FUNCTION ops.tenants() RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ SELECT t.tenant FROM ops.tenant t ORDER BY 1 $$;

-- When each approved target was last compared; the schedule asks for those that are due.
CREATE OR REPLACE FUNCTION ops.snapshots() RETURNS TABLE (tenant text, target text, compared_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT s.tenant, s.target, s.compared_at FROM ledger.snapshot s
$$;
REVOKE ALL ON FUNCTION ops.pending, ops.zones, ops.mirrors, ops.row_ends, ops.stages, ops.refusals, ops.tenants, ops.snapshots
  FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ops.pending, ops.mirrors, ops.tenants TO fw_ingest_login, fw_decide_login, fw_commit_login,
  fw_audit_login, fw_status_login;
GRANT EXECUTE ON FUNCTION ops.zones TO fw_ingest_login, fw_status_login;
GRANT EXECUTE ON FUNCTION ops.row_ends, ops.stages, ops.refusals TO fw_status_login;
GRANT EXECUTE ON FUNCTION ops.snapshots TO fw_commit_login, fw_status_login;

-- What their owner may see of each table: ids, states, codes and times, no sealed or hashed value.
CALL ops.show('ops.tenant', 'tenant');
CALL ops.show('landing.extract', 'tenant, source, source_version, state, refusal, refused_line, refused_byte, received_at');
CALL ops.show('landing.zone', 'tenant, source, listing, look_again_at');
CALL ops.show('canonical.record', 'tenant, record_id');
CALL ops.show('canonical.row', 'tenant, record_id, disposition, reason');
CALL ops.show('canonical.outbox', 'tenant, since');
CALL ops.show('mirror.sync', 'tenant, target, refreshed_at, changed_at');
CALL ops.show('mirror.lookup', 'tenant, due_at, needed_until');
CALL ops.show('decision.candidate',
  'tenant, candidate_id, record_id, target, business_key, revision, state, reason, decided_at, give_up_at');
CALL ops.show('decision.outbox', 'tenant, since');
CALL ops.show('ledger.intent', 'tenant, intent_id, candidate_id, target, business_key, revision, state, outcome, reason');
CALL ops.show('ledger.work', 'tenant, target, state, not_before, lease_until');
CALL ops.show('ledger.outbox', 'tenant, since');
CALL ops.show('ledger.target', 'tenant, target, wish, held_until');
CALL ops.show('ledger.snapshot', 'tenant, target, compared_at');

CALL ops.give('ops.pending', 'fw_overview');
CALL ops.give('ops.zones', 'fw_overview');
CALL ops.give('ops.mirrors', 'fw_overview');
CALL ops.give('ops.row_ends', 'fw_overview');
CALL ops.give('ops.stages', 'fw_overview');
CALL ops.give('ops.refusals', 'fw_overview');
CALL ops.give('ops.tenants', 'fw_overview');
CALL ops.give('ops.snapshots', 'fw_overview');
