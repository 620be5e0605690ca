-- Rows of a source that agree in identity and differ in their discriminator: which number each of them has, for good.
CREATE TABLE canonical.sibling (
  tenant text NOT NULL,
  source text NOT NULL,
  family bytea NOT NULL,                                 -- HMAC of kind and identity
  number int NOT NULL,                                   -- 1, 2, …: `discriminator` of its records from 2 on
  parts  bytea[] NOT NULL,                               -- HMAC of each column of the discriminator; NULL: not said so far
  PRIMARY KEY (tenant, source, family, number)
);
CALL ops.isolate('canonical.sibling');
GRANT SELECT, INSERT, UPDATE ON canonical.sibling TO fw_ingest;

-- A source record's digests under older generations of the identity key; NULL: there is one generation.
ALTER TABLE canonical.record ADD COLUMN former_records bytea[];
