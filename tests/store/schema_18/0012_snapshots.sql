-- What each target said of itself when somebody approved it, and when it was last compared.

CREATE TABLE ledger.snapshot (
  tenant      text NOT NULL,
  target      text NOT NULL,
  body        jsonb NOT NULL,                            -- commit.snapshot: no PHI
  findings    jsonb NOT NULL,                            -- what the probe found, by cell of the matrix
  approved_by text NOT NULL,
  approved_at timestamptz NOT NULL DEFAULT now(),
  compared_at timestamptz NOT NULL DEFAULT now(),
  drifted     boolean NOT NULL DEFAULT false,            -- the last comparison found a breaking change
  PRIMARY KEY (tenant, target)
);
CALL ops.isolate('ledger.snapshot');
GRANT SELECT, INSERT, UPDATE ON ledger.snapshot TO fw_commit;

-- When each approved target was last compared; the schedule asks for those that are due.
CREATE FUNCTION ops.snapshots() RETURNS TABLE (tenant text, target text, compared_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
  SELECT s.tenant, s.target, s.compared_at FROM ledger.snapshot s
$$;
REVOKE ALL ON FUNCTION ops.snapshots FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ops.snapshots TO fw_commit_login, fw_status_login;
