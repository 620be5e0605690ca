-- Layers are NOLOGIN group roles; a (layer, tenant) role inherits its layer's grants and is what row-level security looks
-- at; logins are NOINHERIT, so that a session sees no tenant at all before SET ROLE (design section 4).
-- The runner executes this as the migrator, which owns everything and has BYPASSRLS and CREATEROLE.

CREATE SCHEMA ops;
CREATE SCHEMA landing;
CREATE SCHEMA canonical;
CREATE SCHEMA decision;
CREATE SCHEMA mirror;
CREATE SCHEMA ledger;
CREATE SCHEMA review;
CREATE SCHEMA quarantine;
CREATE SCHEMA audit;

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

-- fw_commit__mercy -> mercy; a login or group role has no tenant and so sees no row.
CREATE FUNCTION ops.current_tenant() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
  RETURN CASE WHEN current_user::text ~ '^fw_[a-z]+__' THEN substr(current_user::text, strpos(current_user::text, '__') + 2) END;

CREATE TABLE ops.tenant (
  tenant        text PRIMARY KEY CHECK (tenant ~ '^[a-z][a-z0-9_-]{0,30}$'),
  registered_at timestamptz NOT NULL DEFAULT now()
);

-- One data key a tenant and month, wrapped by the tenant's key from the secrets manager; destroying the row shreds the month.
CREATE TABLE ops.data_key (
  tenant     text NOT NULL REFERENCES ops.tenant,
  month      date NOT NULL CHECK (extract(day FROM month) = 1),
  wrapped    bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, month)
);

-- Makes a tenant's roles and grants them to the layers' logins. Idempotent; called by `up`, `run` and the tenant sensor.
CREATE FUNCTION ops.register_tenant(name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE layer text;
BEGIN
  IF name !~ '^[a-z][a-z0-9_-]{0,30}$' THEN
    RAISE EXCEPTION 'not a tenant id' USING ERRCODE = 'check_violation';
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('ops.register_tenant'));
  IF EXISTS (SELECT 1 FROM ops.tenant t WHERE t.tenant = name) THEN
    RETURN false;
  END IF;
  FOREACH layer IN ARRAY ARRAY['ingest', 'decide', 'commit', 'audit', 'status'] LOOP
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'fw_' || layer || '__' || name) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN', 'fw_' || layer || '__' || name);
    END IF;
    EXECUTE format('GRANT %I TO %I', 'fw_' || layer, 'fw_' || layer || '__' || name);
    EXECUTE format('GRANT %I TO %I', 'fw_' || layer || '__' || name, 'fw_' || layer || '_login');
  END LOOP;
  INSERT INTO ops.tenant (tenant) VALUES (name);
  RETURN true;
END $$;

-- Row-level security for a table with a tenant column: the net under statements that name the tenant themselves.
CREATE PROCEDURE ops.isolate(target regclass) LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
  EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
  EXECUTE format('CREATE POLICY tenant ON %s USING (tenant = (SELECT ops.current_tenant())) '
                 'WITH CHECK (tenant = (SELECT ops.current_tenant()))', target);
END $$;

CALL ops.isolate('ops.tenant');
CALL ops.isolate('ops.data_key');
GRANT USAGE ON SCHEMA ops TO fw_ingest, fw_decide, fw_commit, fw_audit, fw_status,
  fw_ingest_login, fw_decide_login, fw_commit_login, fw_audit_login, fw_status_login;
REVOKE ALL ON FUNCTION ops.register_tenant FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ops.register_tenant TO fw_ingest_login, fw_decide_login, fw_commit_login, fw_audit_login;
GRANT SELECT, INSERT ON ops.data_key TO fw_ingest, fw_decide, fw_commit;
GRANT SELECT ON ops.tenant TO fw_ingest, fw_decide, fw_commit, fw_audit, fw_status;
