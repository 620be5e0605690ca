-- What all layers share: tenants, data keys, and row-level security.

CREATE SCHEMA ops;

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
GRANT SELECT, INSERT ON ops.data_key TO fw_ingest, fw_decide, fw_commit;
GRANT SELECT ON ops.tenant TO fw_ingest, fw_decide, fw_commit, fw_audit, fw_status;
