"""Every column of the database, and why somebody who reads them all learns no value of a patient."""

from __future__ import annotations

from typing import Any

import psycopg

REASONS: dict[str, str] = {
    "sealed, bound to table and row": "answer base body:bytea context name_sealed payload search source_row",
    "a key, wrapped by the tenant's sealing key": "wrapped",
    "an HMAC under a key of the tenant's: who has no key can try no value": (
        "business_key content_hash family fingerprint former_records identifier input_hash key matched_by "
        "parts patient_key person_id same_as source_record stamp"
    ),
    "a hash of files of ours, or of the EHR's statement": (
        "contract_sha256 mirror.capability.sha256 public.fhir_writeback_migration.sha256 suite_sha256"
    ),
    "a hash of sizes and times of files": "listing",
    "a hash of a whole delivered file, which its sender's manifest has to be compared with. Of a file that holds "
    "one short row and nothing else it confirms a guess": "landing.extract.sha256",
    "an id of ours, random": (
        "attempt_id candidate_id extract_id id intent_id item_id record_id request_id row_id run_id task_id verdict_id worker"
    ),
    "an id that the EHR gave": (
        "consent_id ehr_request_id encounter_id etag found located patient_id replaced_by resource_id version_id"
    ),
    "a name, configured": "actor approved_by kind layer modes name owner_source server source target tenant",
    "a code, state or version of a list that we know": (
        "broader code disposition granted held_because must_keep opened_by origin outcome path precondition reason "
        "reasons refusal resource_type state status type verb versions wish"
    ),
    "what the EHR says of itself": "body:jsonb findings",
    "ids, codes, versions and keyed hashes": "detail evidence subject",
    "true or false": "accepted active deceased drifted unanswered void",
    "a number of things, a place in a file, or a number of a version": (
        "bytes counted failures fence mapping_version number position priority refused_byte refused_line revision "
        "row_number rows sends source_version used writes"
    ),
    "when something of ours happened, or will": (
        "accepted_at answered_at applied_at approved_at asked_at at changed_at compared_at created_at decided_at due_at "
        "expires_at fetched_at finished_at give_up_at held_until hour lease_until listed_at look_again_at looked_at "
        "made_at month needed_until not_before opened_at received_at refreshed_at refused_since registered_at seen_at "
        "sent_at since sweep_until"
    ),
    "when a source or the EHR says that it changed a record": "as_of last_updated watermark",
    "when a stay or a rate window began and ended; a stay's rows are found by it": "ends_at starts_at",
}
"""By name of the column, with its type or its table where columns of that name differ."""

COLUMNS = """
SELECT format('%s.%s', table_schema, table_name), column_name, udt_name FROM information_schema.columns
WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, ordinal_position
"""


def test_every_column_has_a_reason_why_it_tells_nothing(database: Any) -> None:
    known = {name for names in REASONS.values() for name in names.split()}
    with psycopg.connect(database.superuser) as connection:
        columns = connection.execute(COLUMNS).fetchall()
    ways = [{f"{table}.{name}", f"{name}:{kind}", name} for table, name, kind in columns]
    unexplained = [f"{table}.{name}" for (table, name, _), way in zip(columns, ways, strict=True) if not way & known]
    assert unexplained == [], "say above why each of these tells nothing, or seal it"
    assert known - set().union(*ways) == set(), "these columns are gone"


def test_no_column_has_two_reasons() -> None:
    names = [name for names in REASONS.values() for name in names.split()]
    assert sorted(names) == sorted(set(names))
