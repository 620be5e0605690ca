-- What was delivered.

CREATE SCHEMA landing;

CREATE TABLE landing.extract (
  tenant          text NOT NULL,
  extract_id      uuid NOT NULL,
  source          text NOT NULL,
  source_version  int NOT NULL,
  contract_sha256 bytea NOT NULL,
  sha256          bytea NOT NULL,
  bytes           bigint NOT NULL,
  name_sealed     bytea NOT NULL,                        -- a file name can hold a patient's
  state           text NOT NULL CHECK (state IN ('landed', 'ingested', 'refused')),
  refusal         text,
  refused_line    bigint,
  refused_byte    bigint,
  rows            int NOT NULL DEFAULT 0,
  received_at     timestamptz NOT NULL DEFAULT now(),
  finished_at     timestamptz,
  run_id          text,
  PRIMARY KEY (tenant, extract_id),
  UNIQUE (tenant, source, sha256, contract_sha256)       -- re-delivery of the same bytes is free
);

CREATE INDEX extract_landed ON landing.extract (tenant, extract_id) WHERE state = 'landed';

-- What a look into a zone has met, so that the next look need not read a file again: zones are never changed by us.
CREATE TABLE landing.seen (
  tenant     text NOT NULL,
  stamp      bytea NOT NULL,                             -- keyed HMAC of source, contract, name, size and time of change
  extract_id uuid,                                       -- null: its size must stay for a while first
  since      timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, stamp)
);

CALL ops.isolate('landing.extract');
CALL ops.isolate('landing.seen');

GRANT USAGE ON SCHEMA landing TO fw_ingest;
GRANT SELECT, INSERT, UPDATE ON landing.extract, landing.seen TO fw_ingest;
