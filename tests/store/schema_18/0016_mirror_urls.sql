-- Patients and encounters are known by their own URL too, beside the identifiers that they bear. The server under whose URLs a
-- type's rows are known; where it is not the tenant's (a mirror from before this, an EHR that moved), the next refresh reads all again.
ALTER TABLE mirror.sync ADD COLUMN server text;
