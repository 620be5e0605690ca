-- Requests that are about to leave: written with the send marker, before the first byte.
INSERT INTO ledger.attempt (tenant, attempt_id, intent_id, fence, verb, precondition, request_id, sent_at)
SELECT %(tenant)s, a.*, clock_timestamp()
FROM unnest(%(attempts)s::uuid[], %(intents)s::uuid[], %(fences)s::bigint[], %(verbs)s::text[], %(preconditions)s::text[],
            %(requests)s::text[]) AS a (attempt_id, intent_id, fence, verb, precondition, request_id)
