-- What an answer's Location named, where nobody has seen it yet: an acknowledged create is read there, and never taken for absent.
ALTER TABLE ledger.attempt ADD COLUMN located text;
