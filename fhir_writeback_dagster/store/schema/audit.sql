-- The audit log. Its writers' only right on it is the function audit.record.

CREATE SCHEMA audit;

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

GRANT USAGE ON SCHEMA audit TO fw_ingest, fw_decide, fw_commit, fw_audit;
GRANT SELECT ON audit.event TO fw_audit;
