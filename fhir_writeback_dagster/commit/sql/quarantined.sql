-- Writes that were given up for one reason, and are so still.
SELECT count(DISTINCT i.intent_id)
FROM quarantine.item q
JOIN ledger.intent i ON i.tenant = q.tenant AND i.intent_id = q.intent_id
WHERE q.tenant = %(tenant)s AND q.layer = 'commit' AND q.code = %(code)s AND q.state = 'open'
  AND i.target = %(target)s AND i.state = %(before)s
