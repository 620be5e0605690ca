-- Who was merged into a patient, also over several steps: asked for every batch that decide works on.
CREATE INDEX patient_replaced_by ON mirror.patient (tenant, target, replaced_by) WHERE replaced_by IS NOT NULL;
