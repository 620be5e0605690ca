-- What commit does: `intent` is permanent, `work` is the narrow queue beside it (a row goes when the intent ends).

CREATE SCHEMA ledger;

CREATE TABLE ledger.intent (
  tenant        text NOT NULL,
  intent_id     uuid NOT NULL,
  target        text NOT NULL,
  business_key  text NOT NULL,
  revision      int NOT NULL,
  candidate_id  uuid NOT NULL,
  verdict_id    uuid NOT NULL,
  record_id     uuid NOT NULL,                           -- the correlation id
  source        text NOT NULL,
  kind          text NOT NULL,
  resource_type text NOT NULL,
  patient_id    text NOT NULL,
  encounter_id  text,
  content_hash  bytea NOT NULL,
  state         text NOT NULL CHECK (state IN ('ready', 'leased', 'sending', 'retry_wait', 'unknown', 'reconciling',
                  'pending_target', 'committed', 'quarantined', 'in_review', 'withdrawn', 'discarded')),
  outcome       text CHECK (outcome IN ('created', 'updated', 'suppressed', 'reconciled')),
  reason        text,
  fence         bigint NOT NULL DEFAULT 0,               -- kept here too: an intent that is re-opened goes on counting
  unanswered    boolean NOT NULL DEFAULT false,          -- a send had no answer: a failed precondition may be our own write
  accepted      boolean NOT NULL DEFAULT false,          -- the target took it for mediation (202): never send it again
  created_at    timestamptz NOT NULL DEFAULT now(),
  changed_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, intent_id),
  UNIQUE (tenant, target, business_key, revision),
  CHECK ((state = 'committed') = (outcome IS NOT NULL))
);
CREATE INDEX intent_candidate ON ledger.intent (tenant, candidate_id);
CREATE INDEX intent_open ON ledger.intent (tenant, target, business_key)
  WHERE state NOT IN ('committed', 'quarantined', 'in_review', 'withdrawn', 'discarded');

CREATE TABLE ledger.work (
  tenant      text NOT NULL,
  intent_id   uuid NOT NULL,
  target      text NOT NULL,
  patient_id  text NOT NULL,
  state       text NOT NULL CHECK (state IN ('ready', 'leased', 'sending', 'retry_wait', 'unknown', 'reconciling',
                'pending_target')),
  priority    int NOT NULL DEFAULT 100,                  -- lower goes first
  not_before  timestamptz NOT NULL DEFAULT now(),
  fence       bigint NOT NULL DEFAULT 0,                 -- rises at each claim; every later write names it
  worker      text,
  lease_until timestamptz,
  sent_at     timestamptz,                               -- the send marker: committed before the first byte leaves
  sends       int NOT NULL DEFAULT 0,
  created_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, intent_id)
);
CREATE INDEX work_due ON ledger.work (tenant, target, priority, not_before, patient_id);
CREATE INDEX work_patient ON ledger.work (tenant, target, patient_id);   -- one in flight a patient

CREATE TABLE ledger.attempt (
  tenant       text NOT NULL,
  attempt_id   uuid NOT NULL,
  intent_id    uuid NOT NULL,
  fence        bigint NOT NULL,
  verb         text NOT NULL,                            -- create, update, search, read
  precondition text NOT NULL,                            -- if_none_exist, if_match, none
  request_id   text NOT NULL,                            -- X-Request-Id
  sent_at      timestamptz NOT NULL,
  answered_at  timestamptz,                              -- null: no answer
  status       int,
  outcome      text,                                     -- class of the error taxonomy, or committed
  answer       bytea,                                    -- sealed answer, kept for what did not succeed
  -- What the EHR itself calls a request (MEDITECH's mtrestapi-requestid): its support asks for it. Null: it names none.
  ehr_request_id text CHECK (ehr_request_id ~ '^[A-Za-z0-9._:/+=-]{1,128}$'),
  PRIMARY KEY (tenant, attempt_id)
);
CREATE INDEX attempt_intent ON ledger.attempt (tenant, intent_id, sent_at);

CREATE TABLE ledger.link (
  tenant        text NOT NULL,
  target        text NOT NULL,
  business_key  text NOT NULL,
  resource_type text NOT NULL,
  resource_id   text NOT NULL,
  version_id    text,
  etag          text,                                    -- verbatim: opaque
  origin        text NOT NULL CHECK (origin IN ('ours', 'foreign')),
  owner_source  text NOT NULL,
  revision      int NOT NULL,
  content_hash  bytea NOT NULL,                          -- of our payload that stands there
  base          bytea,                                   -- sealed: the resource as the EHR held it after our write
  state         text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'retracted', 'deleted')),
  intent_id     uuid NOT NULL,
  changed_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, target, business_key)
);
CREATE INDEX link_resource ON ledger.link (tenant, target, resource_type, resource_id);

-- Back to decide: a candidate whose verdict no longer stood at the re-check.
CREATE TABLE ledger.outbox (
  tenant       text NOT NULL,
  candidate_id uuid NOT NULL,
  since        timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, candidate_id)
);

-- What holds a target back, by whom, and how much of its limits is used: over all runs of a tenant, so it stands here.
CREATE TABLE ledger.target (
  tenant       text NOT NULL,
  target       text NOT NULL,
  wish         text NOT NULL DEFAULT 'running' CHECK (wish IN ('running', 'draining', 'paused')),   -- a person's
  held_until   timestamptz,                              -- infinity: until a person releases it
  held_because text CHECK (held_because IN ('down', 'throttled', 'blackout', 'cap', 'drift')),
  failures     int NOT NULL DEFAULT 0,                   -- runs in a row that found it down: each waits twice as long
  changed_at   timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, target)
);

-- A rate window, as used by whoever took of it; one row each, begun anew when its time has come.
CREATE TABLE ledger.rate (
  tenant    text NOT NULL,
  target    text NOT NULL,
  name      text NOT NULL,
  starts_at timestamptz NOT NULL,
  used      int NOT NULL,
  PRIMARY KEY (tenant, target, name)
);

-- Send markers by hour: what a day usually brings, and what counts for the cap since a person last released it.
CREATE TABLE ledger.sent (
  tenant  text NOT NULL,
  target  text NOT NULL,
  hour    timestamptz NOT NULL,
  writes  int NOT NULL,
  counted int NOT NULL,
  PRIMARY KEY (tenant, target, hour)
);

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

-- What each target said of itself when somebody approved it, and when it was last compared.
CREATE TABLE ledger.snapshot (
  tenant      text NOT NULL,
  target      text NOT NULL,
  body        jsonb NOT NULL,                            -- commit.snapshot: no PHI
  findings    jsonb NOT NULL,                            -- what the probe found, by cell of the matrix
  approved_by text NOT NULL,
  approved_at timestamptz NOT NULL DEFAULT now(),
  compared_at timestamptz NOT NULL DEFAULT now(),
  drifted     boolean NOT NULL DEFAULT false,            -- the last comparison found a breaking change
  PRIMARY KEY (tenant, target)
);

CALL ops.isolate('ledger.intent');
CALL ops.isolate('ledger.work');
CALL ops.isolate('ledger.attempt');
CALL ops.isolate('ledger.link');
CALL ops.isolate('ledger.outbox');
CALL ops.isolate('ledger.target');
CALL ops.isolate('ledger.rate');
CALL ops.isolate('ledger.sent');
CALL ops.isolate('ledger.credential');
CALL ops.isolate('ledger.snapshot');

GRANT USAGE ON SCHEMA ledger TO fw_commit, fw_decide;
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA ledger TO fw_commit;
GRANT DELETE ON ledger.work TO fw_commit;
GRANT SELECT, DELETE ON ledger.outbox TO fw_decide;
-- Link state, and what became of an intent: ids, hashes and states, no PHI.
GRANT SELECT (tenant, target, business_key, resource_type, resource_id, version_id, origin, owner_source, revision,
              content_hash, state) ON ledger.link TO fw_decide;
GRANT SELECT (tenant, intent_id, target, business_key, revision, candidate_id, state, outcome, reason)
  ON ledger.intent TO fw_decide;
