-- A Consent may name its patient by an identifier. Whose it is then is found again whenever the mirror learns who bears it
-- (`commit.mirror.placement`); a consent of nobody knows whom stands against every write that it would deny.
ALTER TABLE mirror.consent ADD COLUMN patient_key bytea;  -- HMAC of the identifier, as in mirror.patient_identifier
CREATE INDEX consent_patient_key ON mirror.consent (tenant, target, patient_key) WHERE patient_key IS NOT NULL;
CREATE INDEX consent_unplaced ON mirror.consent (tenant, target) WHERE patient_id IS NULL;

-- When a type was last listed completely: polling by date sees only what the EHR dates as it should.
ALTER TABLE mirror.sync ADD COLUMN listed_at timestamptz;

-- What was read before is read again, since whose it is was read otherwise.
UPDATE mirror.sync SET server = NULL WHERE resource_type = 'Consent';

-- A person releases what was given up for one cause (`quarantine release`).
GRANT SELECT (layer, code), UPDATE (state) ON quarantine.item TO fw_commit;
