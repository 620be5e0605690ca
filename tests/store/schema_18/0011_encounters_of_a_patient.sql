-- A row that names no encounter may get the patient's only one that holds its time (tenant's matching.encounter_by_time).
CREATE INDEX encounter_patient ON mirror.encounter (tenant, target, patient_id, starts_at);
