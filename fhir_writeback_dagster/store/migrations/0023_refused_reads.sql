-- Since when the reads that an intent needs (its patient's chart, what stands there) failed each time: after `ehr.refused_ttl` a
-- person is asked. Null: the last one did not fail.
ALTER TABLE ledger.work ADD COLUMN refused_since timestamptz;
