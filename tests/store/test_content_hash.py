"""Hashes of content: equal where content is equal, keyed, and carried over from versions that did not key them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.errors import SecretError
from fhir_writeback_dagster.store.content_hash import ContentHasher, content_hasher
from fhir_writeback_dagster.store.db import Store, connect
from fhir_writeback_dagster.store.sealing import Sealer

KEY = b"k" * 32
PAYLOAD = {"resourceType": "Observation", "valueQuantity": {"value": 72}}
FORMER = canonicaljson.sha256(PAYLOAD)
PLACES = ("decision.candidate", "decision.revision", "review.task", "ledger.intent", "ledger.link")


@pytest.fixture
def tenants(make_tenant: Any, database: Any) -> tuple[str, str]:
    names = (make_tenant("hashed-a").tenant, make_tenant("hashed-b").tenant)
    for name in names:
        database.register(name)  # a second time: empties it
    return names


def hasher(database: Any, tenant: str, key: bytes = KEY) -> ContentHasher:
    with Store(database.dsn("decide"), "decide") as store, store.tenant(tenant) as connection:
        return content_hasher(connection, tenant, Sealer(tenant, key))


FORMER_ROWS = """
WITH ids AS (SELECT gen_random_uuid() AS candidate, gen_random_uuid() AS intent, gen_random_uuid() AS other), candidate AS (
  INSERT INTO decision.candidate (tenant, candidate_id, record_id, target, source, kind, resource_type, mapping_version,
    input_hash, content_hash, state)
  SELECT %(tenant)s, candidate, other, 'ehr', 's', 'k', 'Observation', 1, '', %(hash)s, 'denied' FROM ids
), revision AS (
  INSERT INTO decision.revision (tenant, target, business_key, revision, content_hash, mapping_version, candidate_id, extract_id)
  SELECT %(tenant)s, 'ehr', 'key', 1, %(hash)s, 1, candidate, other FROM ids
), task AS (
  INSERT INTO review.task (tenant, task_id, candidate_id, opened_by, reason, content_hash)
  SELECT %(tenant)s, other, candidate, 'decide', 'r', %(hash)s FROM ids
), intent AS (
  INSERT INTO ledger.intent (tenant, intent_id, target, business_key, revision, candidate_id, verdict_id, record_id, source, kind,
    resource_type, patient_id, content_hash, state)
  SELECT %(tenant)s, intent, 'ehr', 'key', 1, candidate, other, other, 's', 'k', 'Observation', 'p', %(hash)s, 'ready' FROM ids
), link AS (
  INSERT INTO ledger.link (tenant, target, business_key, resource_type, resource_id, origin, owner_source, revision,
    content_hash, intent_id)
  SELECT %(tenant)s, 'ehr', 'key', 'Observation', 'o', 'ours', 's', 1, %(hash)s, intent FROM ids
)
INSERT INTO audit.event (tenant, layer, actor, type, subject, detail)
SELECT %(tenant)s, 'commit', 'x', 'intent.committed', intent::text, jsonb_build_object('content', encode(%(hash)s, 'hex'))
FROM ids
"""
"""A row of each table that holds a content hash, and an audit event that does, as the former version wrote them."""


def leave_as_former_version(database: Any, tenant: str) -> None:
    with connect(database.superuser) as connection:
        connection.execute(FORMER_ROWS, {"tenant": tenant, "hash": FORMER})


def hashes(database: Any, tenant: str) -> set[bytes]:
    with connect(database.superuser) as connection:
        found = {
            bytes(row[0])
            for place in PLACES
            for row in connection.execute(f"SELECT content_hash FROM {place} WHERE tenant = %s", (tenant,))
        }
        events = connection.execute(
            "SELECT detail ->> 'content' FROM audit.event WHERE tenant = %s AND detail ? 'content'", (tenant,)
        )
        return found | {bytes.fromhex(row[0]) for row in events}


def test_equal_content_has_one_hash_of_a_tenant_and_it_is_no_hash_of_the_content_alone(
    database: Any, tenants: tuple[str, str]
) -> None:
    mine, again, other = hasher(database, tenants[0]), hasher(database, tenants[0]), hasher(database, tenants[1])
    assert mine.of(PAYLOAD) == again.of(dict(reversed(PAYLOAD.items())))
    assert len({FORMER, mine.of(PAYLOAD), mine.of({}), other.of(PAYLOAD)}) == 4


def test_hashes_of_a_former_version_are_those_of_this_one_afterwards(database: Any, tenants: tuple[str, str]) -> None:
    for tenant in tenants:
        leave_as_former_version(database, tenant)
    mine = hasher(database, tenants[0])
    assert hashes(database, tenants[0]) == {mine.of(PAYLOAD)}
    assert hashes(database, tenants[1]) == {FORMER}, "each tenant's are replaced under its own key"
    hasher(database, tenants[0])
    assert hashes(database, tenants[0]) == {mine.of(PAYLOAD)}, "once"
    leave = "UPDATE ledger.link SET content_hash = %s WHERE tenant = %s"
    with connect(database.superuser) as connection:
        connection.execute(leave, (FORMER, tenants[0]))
    hasher(database, tenants[0])
    assert hashes(database, tenants[0]) == {mine.of(PAYLOAD)}, "also what a run of the former version still wrote"


def test_a_wrong_sealing_key_is_refused(database: Any, tenants: tuple[str, str]) -> None:
    hasher(database, tenants[0])
    with pytest.raises(SecretError, match="content key"):
        hasher(database, tenants[0], b"x" * 32)


@pytest.mark.parametrize("layer", ["ingest", "commit", "audit"])
def test_only_decide_reaches_the_content_key(database: Any, tenants: tuple[str, str], layer: Any) -> None:
    hasher(database, tenants[0])
    for statement in ("SELECT * FROM ops.content_key", "SELECT ops.key_content('', '')"):
        with (
            Store(database.dsn(layer), layer) as store,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
            store.tenant(tenants[0]) as connection,
        ):
            connection.execute(statement)
