-- What the delivered rows say.

CREATE SCHEMA canonical;

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
  former_records  bytea[],                               -- source_record under older generations of the identity key; null: one generation
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

-- Rows of a source that agree in identity and differ in their discriminator: which number each of them has, for good.
CREATE TABLE canonical.sibling (
  tenant text NOT NULL,
  source text NOT NULL,
  family bytea NOT NULL,                                 -- HMAC of kind and identity
  number int NOT NULL,                                   -- 1, 2, …: `discriminator` of its records from 2 on
  parts  bytea[] NOT NULL,                               -- HMAC of each column of the discriminator; NULL: not said so far
  PRIMARY KEY (tenant, source, family, number)
);

CALL ops.isolate('canonical.record');
CALL ops.isolate('canonical.row');
CALL ops.isolate('canonical.outbox');
CALL ops.isolate('canonical.sibling');

GRANT USAGE ON SCHEMA canonical TO fw_ingest, fw_decide;
GRANT SELECT, INSERT ON canonical.record, canonical.row, canonical.outbox TO fw_ingest;
GRANT SELECT ON canonical.record, canonical.row TO fw_decide;
GRANT SELECT, DELETE, INSERT ON canonical.outbox TO fw_decide;   -- INSERT: `mode replay` lets decide look again
GRANT SELECT, INSERT, UPDATE ON canonical.sibling TO fw_ingest;
