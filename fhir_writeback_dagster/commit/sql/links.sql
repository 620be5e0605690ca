-- The resource that a business key stands for. A link never goes back to an older revision.
INSERT INTO ledger.link AS l (tenant, target, business_key, resource_type, resource_id, version_id, etag, origin, owner_source,
  revision, content_hash, base, state, intent_id)
SELECT %(tenant)s, %(target)s, n.*
FROM unnest(%(keys)s::text[], %(types)s::text[], %(ids)s::text[], %(versions)s::text[], %(etags)s::text[], %(origins)s::text[],
            %(sources)s::text[], %(revisions)s::int[], %(hashes)s::bytea[], %(bases)s::bytea[], %(states)s::text[],
            %(intents)s::uuid[])
  AS n (business_key, resource_type, resource_id, version_id, etag, origin, owner_source, revision, content_hash, base, state,
        intent_id)
ON CONFLICT (tenant, target, business_key) DO UPDATE
SET resource_type = excluded.resource_type, resource_id = excluded.resource_id, version_id = excluded.version_id,
    etag = excluded.etag, origin = excluded.origin, revision = excluded.revision, content_hash = excluded.content_hash,
    base = excluded.base, state = excluded.state, intent_id = excluded.intent_id, changed_at = now()
WHERE l.revision <= excluded.revision
