-- Whom an on-demand mirror has to know now: whom it holds, and whom open work names.
SELECT p.patient_id FROM mirror.patient p WHERE p.tenant = %(tenant)s AND p.target = %(target)s
UNION
SELECT k.patient_id FROM ledger.work k WHERE k.tenant = %(tenant)s AND k.target = %(target)s
UNION
SELECT c.patient_id FROM decision.outbox o
JOIN decision.candidate c ON c.tenant = o.tenant AND c.candidate_id = o.candidate_id
WHERE o.tenant = %(tenant)s AND c.tenant = %(tenant)s AND c.target = %(target)s AND c.patient_id IS NOT NULL
