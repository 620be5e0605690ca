-- What a person has to decide.

CREATE SCHEMA review;

CREATE TABLE review.task (
  tenant       text NOT NULL,
  task_id      uuid NOT NULL,
  candidate_id uuid NOT NULL,
  intent_id    uuid,
  opened_by    text NOT NULL CHECK (opened_by IN ('decide', 'commit')),
  reason       text NOT NULL,
  content_hash bytea,                                    -- an approval is bound to it
  evidence     jsonb NOT NULL DEFAULT '{}',              -- codes, keys, versions; no value
  state        text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'approved', 'rejected', 'withdrawn')),
  opened_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, task_id)
);
CREATE INDEX task_open ON review.task (tenant, opened_at) WHERE state = 'open';
CREATE INDEX task_candidate ON review.task (tenant, candidate_id);

CALL ops.isolate('review.task');

GRANT USAGE ON SCHEMA review TO fw_decide, fw_commit;
GRANT SELECT, INSERT, UPDATE ON review.task TO fw_decide, fw_commit;
