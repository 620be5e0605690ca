-- The only way into the audit log. Tenant and actor are taken from the role and the login, never from an argument (inside
-- SECURITY DEFINER `current_user` is the owner). One event a subject; `details` is as long as `subjects` or null. Ids, codes,
-- versions, hashes and counts only.
CREATE OR REPLACE FUNCTION audit.record(type text, subjects text[], details jsonb[] DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  role_name pg_catalog.text := current_setting('role');
  who pg_catalog.text := substr(role_name, strpos(role_name, '__') + 2);
  made pg_catalog.int8;
BEGIN
  IF role_name !~ '^fw_[a-z]+__' THEN
    RAISE EXCEPTION 'audit.record needs a tenant role' USING ERRCODE = 'insufficient_privilege';
  END IF;
  INSERT INTO audit.event (tenant, layer, actor, type, subject, detail)
  SELECT who, split_part(role_name, '_', 2), session_user::pg_catalog.text, record.type, s.subject, coalesce(s.detail, '{}')
  FROM unnest(subjects, details) AS s (subject, detail)
  WHERE s.subject IS NOT NULL;
  GET DIAGNOSTICS made = ROW_COUNT;
  RETURN made;
END $$;

REVOKE ALL ON FUNCTION audit.record FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.record TO fw_ingest, fw_decide, fw_commit, fw_audit;
CALL ops.give('audit.record', 'fw_audit_writer');
