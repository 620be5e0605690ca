-- A candidate's natural key was made and never read: the chart is searched by what the payload itself says.
ALTER TABLE decision.candidate DROP COLUMN natural_key;
