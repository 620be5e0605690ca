-- What commit keeps of the EHR, for decide's matching and consent. Resources are sealed; identifiers are keyed HMACs.

CREATE SCHEMA mirror;

CREATE TABLE mirror.patient (
  tenant       text NOT NULL,
  target       text NOT NULL,
  patient_id   text NOT NULL,                            -- the EHR's logical id
  version_id   text,
  active       boolean NOT NULL,
  deceased     boolean NOT NULL,
  replaced_by  text,                                     -- survivor of a merge (Patient.link type replaced-by)
  body         bytea NOT NULL,
  last_updated timestamptz,
  fetched_at   timestamptz NOT NULL,
  PRIMARY KEY (tenant, target, patient_id)
);
-- Who was merged into a patient, also over several steps: asked for every batch that decide works on.
CREATE INDEX patient_replaced_by ON mirror.patient (tenant, target, replaced_by) WHERE replaced_by IS NOT NULL;

CREATE TABLE mirror.patient_identifier (
  tenant     text NOT NULL,
  target     text NOT NULL,
  identifier bytea NOT NULL,                             -- HMAC of system|value, or of a demographic key (rules.demographics)
  patient_id text NOT NULL,
  PRIMARY KEY (tenant, target, identifier, patient_id)
);
CREATE INDEX patient_identifier_patient ON mirror.patient_identifier (tenant, target, patient_id);

CREATE TABLE mirror.encounter (
  tenant       text NOT NULL,
  target       text NOT NULL,
  encounter_id text NOT NULL,
  version_id   text,
  patient_id   text,
  status       text NOT NULL,
  starts_at    timestamptz,
  ends_at      timestamptz,
  last_updated timestamptz,
  fetched_at   timestamptz NOT NULL,
  PRIMARY KEY (tenant, target, encounter_id)
);
-- A row that names no encounter may get the patient's only one that holds its time (tenant's matching.encounter_by_time).
CREATE INDEX encounter_patient ON mirror.encounter (tenant, target, patient_id, starts_at);

CREATE TABLE mirror.encounter_identifier (
  tenant       text NOT NULL,
  target       text NOT NULL,
  identifier   bytea NOT NULL,
  encounter_id text NOT NULL,
  PRIMARY KEY (tenant, target, identifier, encounter_id)
);
CREATE INDEX encounter_identifier_encounter ON mirror.encounter_identifier (tenant, target, encounter_id);

CREATE TABLE mirror.consent (
  tenant       text NOT NULL,
  target       text NOT NULL,
  consent_id   text NOT NULL,
  version_id   text NOT NULL,
  patient_id   text,
  status       text NOT NULL,
  body         bytea NOT NULL,
  last_updated timestamptz,
  fetched_at   timestamptz NOT NULL,
  PRIMARY KEY (tenant, target, consent_id)
);
CREATE INDEX consent_patient ON mirror.consent (tenant, target, patient_id);

-- One row a mirrored resource type: how far the polling is, and since when the answer is known to be complete.
CREATE TABLE mirror.sync (
  tenant       text NOT NULL,
  target       text NOT NULL,
  resource_type text NOT NULL,
  watermark    timestamptz,                              -- highest meta.lastUpdated seen
  refreshed_at timestamptz NOT NULL,                     -- start of the last complete refresh
  changed_at   timestamptz NOT NULL,                     -- when a refresh last brought something new: waiting rows look again
  -- Patients and encounters are known by their own URL too. The server under whose URLs this type's rows are known; where it
  -- is not the tenant's (an EHR that moved), the next refresh reads all again.
  server       text,
  PRIMARY KEY (tenant, target, resource_type)
);

CREATE TABLE mirror.capability (
  tenant       text NOT NULL,
  target       text NOT NULL,
  fetched_at   timestamptz NOT NULL,
  sha256       bytea NOT NULL,
  body         jsonb NOT NULL,                           -- CapabilityStatement: no PHI
  PRIMARY KEY (tenant, target)
);

-- What decide asks of a mirror that is filled on demand (`reads.mirror` of the matrix), and what commit answered last.
CREATE TABLE mirror.lookup (
  tenant       text NOT NULL,
  target       text NOT NULL,
  key          bytea NOT NULL,                           -- HMAC of what is looked for
  search       bytea NOT NULL,                           -- sealed: an identifier, family name and birth date, or a patient's id
  asked_at     timestamptz NOT NULL,
  needed_until timestamptz NOT NULL,                     -- whom it found stays in the mirror until then
  due_at       timestamptz,                              -- to be answered then; null: with each refresh
  answered_at  timestamptz,
  outcome      text CHECK (outcome IN ('found', 'none', 'too_many', 'unreliable', 'refused')),
  found        text[] NOT NULL DEFAULT '{}',             -- patient ids of the last answer
  PRIMARY KEY (tenant, target, key),
  CHECK ((answered_at IS NULL) = (outcome IS NULL))
);
CREATE INDEX lookup_due ON mirror.lookup (tenant, target, due_at) WHERE due_at IS NOT NULL;

CALL ops.isolate('mirror.patient');
CALL ops.isolate('mirror.patient_identifier');
CALL ops.isolate('mirror.encounter');
CALL ops.isolate('mirror.encounter_identifier');
CALL ops.isolate('mirror.consent');
CALL ops.isolate('mirror.sync');
CALL ops.isolate('mirror.capability');
CALL ops.isolate('mirror.lookup');

GRANT USAGE ON SCHEMA mirror TO fw_decide, fw_commit;
GRANT SELECT ON mirror.patient, mirror.patient_identifier, mirror.encounter, mirror.encounter_identifier, mirror.consent,
  mirror.sync, mirror.capability TO fw_decide;
GRANT SELECT, INSERT, UPDATE, DELETE ON mirror.patient, mirror.patient_identifier, mirror.encounter,
  mirror.encounter_identifier, mirror.consent, mirror.sync, mirror.capability TO fw_commit;
GRANT SELECT (tenant, target, key, needed_until, due_at, answered_at, outcome), INSERT, UPDATE (needed_until, due_at)
  ON mirror.lookup TO fw_decide;
GRANT SELECT, UPDATE, DELETE ON mirror.lookup TO fw_commit;
