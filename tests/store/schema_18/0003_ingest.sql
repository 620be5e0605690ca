-- ingest's rooms: what was delivered (landing), what it says (canonical), what could not be used (quarantine).

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

CREATE TABLE canonical.record (
  tenant          text NOT NULL,
  record_id       uuid NOT NULL,                         -- also the correlation id, up to the EHR's X-Request-Id
  extract_id      uuid NOT NULL,
  source          text NOT NULL,
  source_version  int NOT NULL,
  suite_sha256    bytea,                                 -- the expectations that passed it
  kind            text NOT NULL,
  source_record   bytea NOT NULL,                        -- keyed HMAC of the row's identity in its source
  as_of           timestamptz,                           -- the source's declared order; null: it declares none
  position        int NOT NULL,                          -- first row in the extract
  body            bytea NOT NULL,                        -- sealed canonical JSON
  created_at      timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, record_id)
);
CREATE INDEX record_extract ON canonical.record (tenant, extract_id);
CREATE INDEX record_source_record ON canonical.record (tenant, source, source_record);

CREATE TABLE canonical.row (
  tenant      text NOT NULL,
  row_id      uuid NOT NULL,
  extract_id  uuid NOT NULL,
  row_number  int NOT NULL,                              -- 1-based data row, as the reader counts them
  disposition text NOT NULL CHECK (disposition IN ('record', 'not_written', 'quarantined')),
  reason      text,                                      -- why not written or quarantined
  record_id   uuid,
  source_row  bytea NOT NULL,                            -- sealed JSON of the row as delivered
  PRIMARY KEY (tenant, row_id),
  CHECK ((disposition = 'record') = (record_id IS NOT NULL)),
  CHECK ((disposition = 'record') = (reason IS NULL))
);
CREATE INDEX row_record ON canonical.row (tenant, record_id);
CREATE INDEX row_extract ON canonical.row (tenant, extract_id, row_number);

-- Narrow queue from ingest to decide: a record waits here until decide has looked at it once.
CREATE TABLE canonical.outbox (
  tenant    text NOT NULL,
  record_id uuid NOT NULL,
  since     timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, record_id)
);

-- The five contexts of an item are what its ids lead to: source row(s), canonical object, payload, verdict, answer.
CREATE TABLE quarantine.item (
  tenant       text NOT NULL,
  item_id      uuid NOT NULL,
  layer        text NOT NULL CHECK (layer IN ('ingest', 'decide', 'commit')),
  code         text NOT NULL,
  path         text,                                     -- column or FHIR path, never a value
  extract_id   uuid,
  row_id       uuid,
  record_id    uuid,
  candidate_id uuid,
  verdict_id   uuid,
  intent_id    uuid,
  attempt_id   uuid,
  state        text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'released', 'discarded')),
  opened_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, item_id)
);
CREATE INDEX item_open ON quarantine.item (tenant, code) WHERE state = 'open';

CALL ops.isolate('landing.extract');
CALL ops.isolate('landing.seen');
CALL ops.isolate('canonical.record');
CALL ops.isolate('canonical.row');
CALL ops.isolate('canonical.outbox');
CALL ops.isolate('quarantine.item');

GRANT USAGE ON SCHEMA landing TO fw_ingest;
GRANT SELECT, INSERT, UPDATE ON landing.extract, landing.seen TO fw_ingest;
GRANT USAGE ON SCHEMA canonical TO fw_ingest, fw_decide;
GRANT SELECT, INSERT ON canonical.record, canonical.row, canonical.outbox TO fw_ingest;
GRANT SELECT ON canonical.record, canonical.row TO fw_decide;
GRANT SELECT, DELETE ON canonical.outbox TO fw_decide;
GRANT USAGE ON SCHEMA quarantine TO fw_ingest, fw_decide, fw_commit;
GRANT INSERT ON quarantine.item TO fw_ingest, fw_decide, fw_commit;
GRANT SELECT (tenant, item_id, candidate_id, intent_id, state) ON quarantine.item TO fw_decide, fw_commit;
