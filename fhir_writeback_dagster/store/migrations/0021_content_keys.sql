-- A SHA-256 of a payload as small as one measurement gives the measurement back to whoever tries all values. Hashes of content are
-- HMACs under a key of the tenant's own from now on; those that are here already are replaced when decide first works with the key.

CREATE TABLE ops.content_key (
  tenant      text PRIMARY KEY REFERENCES ops.tenant,
  wrapped     bytea NOT NULL,                            -- by the tenant's sealing key
  sweep_until timestamptz,                               -- former hashes are looked for until then; null: there were none
  created_at  timestamptz NOT NULL DEFAULT now()
);
CALL ops.isolate('ops.content_key');
GRANT SELECT, INSERT ON ops.content_key TO fw_decide;

-- Owns the function that replaces former hashes: in these columns, and of the tenant that is at work.
DO $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'fw_content_keeper') THEN
    CREATE ROLE fw_content_keeper NOLOGIN;
  END IF;
  GRANT fw_content_keeper TO CURRENT_USER;
END $$;
GRANT USAGE ON SCHEMA ops, decision, review, ledger, audit TO fw_content_keeper;
GRANT SELECT (tenant, content_hash), UPDATE (content_hash)
  ON decision.candidate, decision.revision, review.task, ledger.intent, ledger.link TO fw_content_keeper;
GRANT SELECT (tenant, detail), UPDATE (detail) ON audit.event TO fw_content_keeper;

DO $$
DECLARE
  source regclass;
BEGIN
  FOREACH source IN ARRAY ARRAY['decision.candidate', 'decision.revision', 'review.task', 'ledger.intent', 'ledger.link', 'audit.event']::regclass[] LOOP
    EXECUTE format('CREATE POLICY content_keeper ON %s TO fw_content_keeper '
                   'USING (tenant = substr(current_setting(''role''), strpos(current_setting(''role''), ''__'') + 2))', source);
  END LOOP;
END $$;
