-- What could not be used, of any layer.

CREATE SCHEMA quarantine;

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

CALL ops.isolate('quarantine.item');

GRANT USAGE ON SCHEMA quarantine TO fw_ingest, fw_decide, fw_commit;
GRANT INSERT ON quarantine.item TO fw_ingest, fw_decide, fw_commit;
GRANT SELECT (tenant, item_id, candidate_id, intent_id, state) ON quarantine.item TO fw_decide, fw_commit;
