-- The elements that must survive the EHR, as the candidate's mapping names them; NULL, of a candidate made before: all that it says.
ALTER TABLE decision.candidate ADD COLUMN must_keep text[];
