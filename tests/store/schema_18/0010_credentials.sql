-- Which credential each target was last reached with (a keyed hash of it), and what it was granted.

CREATE TABLE ledger.credential (
  tenant      text NOT NULL,
  target      text NOT NULL,
  fingerprint bytea NOT NULL,
  granted     text[] NOT NULL,
  broader     text[] NOT NULL,                           -- scopes that nothing here needs
  since       timestamptz NOT NULL DEFAULT now(),        -- when this credential was first seen
  seen_at     timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, target)
);
CALL ops.isolate('ledger.credential');
GRANT SELECT, INSERT, UPDATE ON ledger.credential TO fw_commit;
