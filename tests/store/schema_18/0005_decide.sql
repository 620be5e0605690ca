-- decide's room: who a person is, what a clinical fact is, which content is newer, and the verdicts.

CREATE TABLE decision.person (
  tenant     text NOT NULL,
  target     text NOT NULL,
  patient_id text NOT NULL,                              -- EHR id; a merged patient's survivor leads to the same person
  person_id  text NOT NULL,                              -- HMAC(identity key, tenant|target|EHR id when first seen)
  since      timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, target, patient_id)
);
CREATE TABLE decision.person_alias (
  tenant    text NOT NULL,
  person_id text NOT NULL,
  same_as   text NOT NULL,                               -- the survivor's person
  since     timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, person_id, same_as)
);

CREATE TABLE decision.fact (
  tenant       text NOT NULL,
  target       text NOT NULL,
  business_key text NOT NULL,
  kind         text NOT NULL,
  person_id    text NOT NULL,
  owner_source text NOT NULL,                            -- the source whose content was accepted first
  revision     int NOT NULL,                             -- the latest accepted
  PRIMARY KEY (tenant, target, business_key)
);

CREATE TABLE decision.revision (
  tenant          text NOT NULL,
  target          text NOT NULL,
  business_key    text NOT NULL,
  revision        int NOT NULL,
  content_hash    bytea NOT NULL,                        -- SHA-256 of the payload's canonical JSON
  as_of           timestamptz,
  mapping_version int NOT NULL,
  candidate_id    uuid NOT NULL,
  extract_id      uuid NOT NULL,
  void            boolean NOT NULL DEFAULT false,        -- accepted, then denied or rejected unsent: counts for nothing
  accepted_at     timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, target, business_key, revision)
);

-- A correction that changes the identity (time, code, patient) is seen because this mapping is kept.
CREATE TABLE decision.source_record (
  tenant        text NOT NULL,
  target        text NOT NULL,
  source        text NOT NULL,
  source_record bytea NOT NULL,
  business_key  text NOT NULL,
  PRIMARY KEY (tenant, target, source, source_record)
);

CREATE TABLE decision.candidate (
  tenant          text NOT NULL,
  candidate_id    uuid NOT NULL,
  record_id       uuid NOT NULL,
  target          text NOT NULL,
  source          text NOT NULL,
  kind            text NOT NULL,
  resource_type   text NOT NULL,
  mapping_version int NOT NULL,
  as_of           timestamptz,
  patient_id      text,
  input_hash      bytea NOT NULL,                        -- keyed HMAC of the canonical record: the same row again
  matched_by      bytea,                                 -- HMAC of the identifier that matched: re-checked before sending
  encounter_id    text,
  person_id       text,
  business_key    text,
  natural_key     bytea,                                 -- keyed HMAC of patient, code and time: the second locator
  revision        int,
  content_hash    bytea,
  payload         bytea,                                 -- sealed FHIR JSON
  context         bytea,                                 -- sealed: what policy and consent were asked, to ask again
  state           text NOT NULL CHECK (state IN ('approved', 'waiting', 'suppressed', 'stale', 'not_written', 'denied',
                                                 'quarantined', 'in_review')),
  reason          text,
  verdict_id      uuid,
  decided_at      timestamptz NOT NULL DEFAULT now(),
  give_up_at      timestamptz,                           -- waiting for a match: then quarantine
  PRIMARY KEY (tenant, candidate_id),
  UNIQUE (tenant, record_id, target),
  CHECK (state <> 'approved' OR (business_key IS NOT NULL AND payload IS NOT NULL AND revision IS NOT NULL
                                 AND verdict_id IS NOT NULL AND patient_id IS NOT NULL))
);
CREATE INDEX candidate_input ON decision.candidate (tenant, input_hash) WHERE state IN ('waiting', 'in_review');
CREATE INDEX candidate_key ON decision.candidate (tenant, target, business_key);
CREATE INDEX candidate_waiting ON decision.candidate (tenant, decided_at) WHERE state = 'waiting';

CREATE TABLE decision.verdict (
  tenant       text NOT NULL,
  verdict_id   uuid NOT NULL,
  candidate_id uuid NOT NULL,
  outcome      text NOT NULL CHECK (outcome IN ('automatic', 'review', 'denied', 'not_written')),
  reasons      jsonb NOT NULL,                           -- [{"layer", "code", "path"?}], never a value
  versions     jsonb NOT NULL,                           -- mapping, suite, policy, consent, match: what was decided on
  made_at      timestamptz NOT NULL DEFAULT now(),
  expires_at   timestamptz NOT NULL,
  PRIMARY KEY (tenant, verdict_id)
);
CREATE INDEX verdict_candidate ON decision.verdict (tenant, candidate_id);

-- Narrow queue from decide to commit.
CREATE TABLE decision.outbox (
  tenant       text NOT NULL,
  candidate_id uuid NOT NULL,
  since        timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, candidate_id)
);

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

CALL ops.isolate('decision.person');
CALL ops.isolate('decision.person_alias');
CALL ops.isolate('decision.fact');
CALL ops.isolate('decision.revision');
CALL ops.isolate('decision.source_record');
CALL ops.isolate('decision.candidate');
CALL ops.isolate('decision.verdict');
CALL ops.isolate('decision.outbox');
CALL ops.isolate('review.task');

GRANT USAGE ON SCHEMA decision TO fw_decide, fw_commit;
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA decision TO fw_decide;
GRANT SELECT ON decision.candidate, decision.verdict TO fw_commit;
GRANT SELECT, DELETE ON decision.outbox TO fw_commit;
GRANT USAGE ON SCHEMA review TO fw_decide, fw_commit;
GRANT SELECT, INSERT, UPDATE ON review.task TO fw_decide, fw_commit;
