-- Layers are NOLOGIN group roles; a (layer, tenant) role inherits its layer's grants and is what row-level security looks
-- at; logins are NOINHERIT, so that a session sees no tenant at all before SET ROLE.
-- The runner executes these files as the migrator, which owns everything and has BYPASSRLS and CREATEROLE. Roles are the
-- server's and not this database's: another database of the same server may have made them already.

DO $$
DECLARE layer text;
BEGIN
  FOREACH layer IN ARRAY ARRAY['ingest', 'decide', 'commit', 'audit', 'status'] LOOP
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'fw_' || layer) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN', 'fw_' || layer);
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'fw_' || layer || '_login') THEN
      EXECUTE format('CREATE ROLE %I NOINHERIT NOLOGIN', 'fw_' || layer || '_login');
    END IF;
  END LOOP;
END $$;

-- COPY goes into temp tables; PUBLIC's right to make them may have been revoked with its right to connect.
DO $$
BEGIN
  EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO fw_ingest, fw_decide, fw_commit, fw_audit', current_database());
END $$;
