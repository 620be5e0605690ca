-- The audit log's front door: inserting through this function is a writer's only right on the table. Tenant and actor are
-- taken from the role and the login, never from an argument (inside SECURITY DEFINER `current_user` is the owner).

CREATE TABLE audit.event (
  id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant  text NOT NULL,
  at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  layer   text NOT NULL,
  actor   text NOT NULL,
  type    text NOT NULL CHECK (type ~ '^[a-z_]+\.[a-z_]+$'),
  subject text NOT NULL,
  detail  jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX event_subject ON audit.event (tenant, subject);
CALL ops.isolate('audit.event');

-- One event a subject; `details` is as long as `subjects` or null. Ids, codes, versions, hashes and counts only.
CREATE FUNCTION audit.record(type text, subjects text[], details jsonb[] DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
  role_name text := current_setting('role');
  who text := substr(role_name, strpos(role_name, '__') + 2);
  made bigint;
BEGIN
  IF role_name !~ '^fw_[a-z]+__' THEN
    RAISE EXCEPTION 'audit.record needs a tenant role' USING ERRCODE = 'insufficient_privilege';
  END IF;
  INSERT INTO audit.event (tenant, layer, actor, type, subject, detail)
  SELECT who, split_part(role_name, '_', 2), session_user::text, record.type, s.subject, coalesce(s.detail, '{}')
  FROM unnest(subjects, details) AS s (subject, detail)
  WHERE s.subject IS NOT NULL;
  GET DIAGNOSTICS made = ROW_COUNT;
  RETURN made;
END $$;

GRANT USAGE ON SCHEMA audit TO fw_ingest, fw_decide, fw_commit, fw_audit;
REVOKE ALL ON FUNCTION audit.record FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.record TO fw_ingest, fw_decide, fw_commit, fw_audit;
GRANT SELECT ON audit.event TO fw_audit;
