-- Makes a tenant's roles and grants them to the layers' logins. Idempotent; called by `up`, `run` and the tenant sensor.
CREATE OR REPLACE FUNCTION ops.register_tenant(name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  layer pg_catalog.text;
BEGIN
  IF name !~ '^[a-z][a-z0-9_-]{0,30}$' THEN
    RAISE EXCEPTION 'not a tenant id' USING ERRCODE = 'check_violation';
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('ops.register_tenant'));
  IF EXISTS (SELECT 1 FROM ops.tenant t WHERE t.tenant = name) THEN
    RETURN false;
  END IF;
  FOREACH layer IN ARRAY ARRAY['ingest', 'decide', 'commit', 'audit', 'status'] LOOP
    IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolname = 'fw_' || layer || '__' || name) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN', 'fw_' || layer || '__' || name);
    END IF;
    EXECUTE format('GRANT %I TO %I', 'fw_' || layer, 'fw_' || layer || '__' || name);
    EXECUTE format('GRANT %I TO %I', 'fw_' || layer || '__' || name, 'fw_' || layer || '_login');
  END LOOP;
  INSERT INTO ops.tenant (tenant) VALUES (name);
  RETURN true;
END $$;

REVOKE ALL ON FUNCTION ops.register_tenant FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ops.register_tenant TO fw_ingest_login, fw_decide_login, fw_commit_login, fw_audit_login;
CALL ops.give('ops.register_tenant', 'fw_registrar');
