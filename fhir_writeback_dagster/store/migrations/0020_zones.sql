-- How a run of ingest left each landing zone, so that its sensor can tell without any key whether something new lies there.

CREATE TABLE landing.zone (
  tenant        text NOT NULL,
  source        text NOT NULL,
  listing       bytea NOT NULL,                          -- hash of the contract and of sizes and times of the files; no name is in it
  look_again_at timestamptz,                             -- a file was not complete yet: look then, even if nothing changed
  looked_at     timestamptz NOT NULL,
  PRIMARY KEY (tenant, source)
);
CALL ops.isolate('landing.zone');
GRANT SELECT, INSERT, UPDATE ON landing.zone TO fw_ingest;
