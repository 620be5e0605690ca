-- A SECURITY DEFINER function runs with the rights of its owner. The owner was the migrator, whom no row-level security holds and
-- who makes roles; now each function belongs to a role that can do what the function does, and no more.

-- `fw_overview` sees named columns across tenants, `fw_audit_writer` inserts events, `fw_registrar` makes tenants' roles.
DO $$
DECLARE
  owner text;
  role text;
  options text := CASE WHEN current_setting('server_version_num')::int >= 160000
                       THEN 'WITH ADMIN TRUE, INHERIT FALSE, SET FALSE' END;
BEGIN
  FOREACH owner IN ARRAY ARRAY['fw_overview', 'fw_audit_writer', 'fw_registrar'] LOOP
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = owner) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN %s', owner, CASE owner WHEN 'fw_registrar' THEN 'CREATEROLE' ELSE '' END);
    END IF;
    EXECUTE format('GRANT %I TO CURRENT_USER', owner);   -- who replaces a function has to be its owner
  END LOOP;
  -- Before PostgreSQL 16 CREATEROLE is enough to grant any role; since then a role has to be given to whom grants it on.
  IF options IS NOT NULL THEN
    FOR role IN SELECT r.rolname FROM pg_roles r WHERE r.rolname ~ '^fw_(ingest|decide|commit|audit|status)(__.+)?$'
                AND pg_has_role(current_user, r.oid, 'MEMBER WITH ADMIN OPTION')
                AND NOT pg_has_role('fw_registrar', r.oid, 'MEMBER WITH ADMIN OPTION') LOOP
      EXECUTE format('GRANT %I TO fw_registrar %s', role, options);
    END LOOP;
  END IF;
  -- Only layers that COPY make temporary tables: ingest, decide, and commit for the mirror.
  EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC, fw_audit', current_database());
END $$;

GRANT USAGE ON SCHEMA audit TO fw_audit_writer;
GRANT INSERT (tenant, layer, actor, type, subject, detail) ON audit.event TO fw_audit_writer;
-- Whatever made the function insert another tenant's event, or in another's name: the table refuses it.
CREATE POLICY writer ON audit.event FOR INSERT TO fw_audit_writer WITH CHECK (
  tenant = substr(current_setting('role'), strpos(current_setting('role'), '__') + 2)
  AND layer = split_part(current_setting('role'), '_', 2) AND actor = session_user::text);

GRANT USAGE ON SCHEMA ops TO fw_registrar;
GRANT SELECT, INSERT ON ops.tenant TO fw_registrar;
CREATE POLICY registrar ON ops.tenant TO fw_registrar USING (true) WITH CHECK (true);

GRANT USAGE ON SCHEMA ops, landing, canonical, mirror, decision, ledger TO fw_overview;

-- Lets the functions of fw_overview see these columns of a table, of all tenants. For files in functions/.
CREATE PROCEDURE ops.show(source regclass, columns text) LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('GRANT SELECT (%s) ON %s TO fw_overview', columns, source);
  IF NOT EXISTS (SELECT 1 FROM pg_policy WHERE polrelid = source AND polname = 'overview') THEN
    EXECUTE format('CREATE POLICY overview ON %s FOR SELECT TO fw_overview USING (true)', source);
  END IF;
END $$;

-- Makes a role the owner of a function. It may make nothing else in the function's schema. For files in functions/.
CREATE PROCEDURE ops.give(function regproc, owner regrole) LANGUAGE plpgsql AS $$
DECLARE
  home regnamespace;
  signature regprocedure := function::regprocedure;
BEGIN
  SELECT p.pronamespace INTO home FROM pg_proc p WHERE p.oid = signature AND p.proowner <> owner;
  IF home IS NULL THEN
    RETURN;
  END IF;
  EXECUTE format('GRANT CREATE ON SCHEMA %s TO %s', home, owner);
  EXECUTE format('ALTER FUNCTION %s OWNER TO %s', signature, owner);
  EXECUTE format('REVOKE CREATE ON SCHEMA %s FROM %s', home, owner);
END $$;
