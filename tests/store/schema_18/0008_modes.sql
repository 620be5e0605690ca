-- The modes of a tenant as they were last audited; the tenant's file holds those that count.
CREATE TABLE decision.mode (
  tenant     text PRIMARY KEY,
  modes      jsonb NOT NULL,
  changed_at timestamptz NOT NULL
);
CALL ops.isolate('decision.mode');
GRANT SELECT, INSERT, UPDATE ON decision.mode TO fw_decide;

-- `mode replay` lets decide look again at what a mode held back.
GRANT INSERT ON canonical.outbox TO fw_decide;
