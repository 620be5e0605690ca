-- Replaces the former, unkeyed hashes (32 bytes) of the tenant at work by keyed ones (0x01 and 32 bytes); returns how many there
-- were. The key comes as the two blocks of HMAC (RFC 2104): a hash of content is an HMAC of the former hash, so that rows
-- are carried over without their payloads, which may be shredded.
CREATE OR REPLACE FUNCTION ops.key_content(inner_block bytea, outer_block bytea) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  role_name pg_catalog.text := current_setting('role');
  who pg_catalog.text := substr(role_name, strpos(role_name, '__') + 2);
  place pg_catalog.text;
  changed pg_catalog.int8;
  total pg_catalog.int8 := 0;
BEGIN
  IF role_name !~ '^fw_decide__' OR octet_length(inner_block) <> 64 OR octet_length(outer_block) <> 64 THEN
    RAISE EXCEPTION 'ops.key_content needs a tenant role of decide and two blocks' USING ERRCODE = 'insufficient_privilege';
  END IF;
  FOREACH place IN ARRAY ARRAY['decision.candidate', 'decision.revision', 'review.task', 'ledger.intent', 'ledger.link'] LOOP
    EXECUTE format('UPDATE %s SET content_hash = ''\x01''::pg_catalog.bytea || sha256($2 || sha256($1 || content_hash)) '
                   'WHERE tenant = $3 AND octet_length(content_hash) = 32', place) USING inner_block, outer_block, who;
    GET DIAGNOSTICS changed = ROW_COUNT;
    total := total + changed;
  END LOOP;
  UPDATE audit.event e
  SET detail = jsonb_set(e.detail, '{content}', to_jsonb(
    '01' || encode(sha256(outer_block || sha256(inner_block || decode(e.detail ->> 'content', 'hex'))), 'hex')))
  WHERE e.tenant = who AND length(e.detail ->> 'content') = 64;
  GET DIAGNOSTICS changed = ROW_COUNT;
  RETURN total + changed;
END $$;

REVOKE ALL ON FUNCTION ops.key_content FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ops.key_content TO fw_decide;
CALL ops.give('ops.key_content', 'fw_content_keeper');
