-- What commit keeps of the EHR, for decide's matching and consent. Resources are sealed; identifiers are keyed HMACs.

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

CALL ops.isolate('mirror.patient');
CALL ops.isolate('mirror.patient_identifier');
CALL ops.isolate('mirror.encounter');
CALL ops.isolate('mirror.encounter_identifier');
CALL ops.isolate('mirror.consent');
CALL ops.isolate('mirror.sync');
CALL ops.isolate('mirror.capability');

GRANT USAGE ON SCHEMA mirror TO fw_decide, fw_commit;
GRANT SELECT ON ALL TABLES IN SCHEMA mirror TO fw_decide, fw_commit;
GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA mirror TO fw_commit;
