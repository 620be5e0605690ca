"""decide on a real database: the sentences of the design's "Identity" that need memory, and what a verdict holds."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from decide.stage import Stage
from support import Database

from fhir_writeback_dagster.decide import pipeline
from fhir_writeback_dagster.decide.matching.patients import Match, match_patients
from fhir_writeback_dagster.store.db import connect

PERMIT = {
    "resourceType": "Consent",
    "id": "c1",
    "meta": {"versionId": "1"},
    "status": "active",
    "patient": {"reference": "Patient/p1"},
    "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]},
    "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
    "provision": {"type": "permit"},
}
DENY = {**PERMIT, "meta": {"versionId": "2"}, "provision": {"type": "deny"}}


@pytest.fixture
def stage(make_tenant: Any, open_run: Any) -> Stage:
    tenant = make_tenant(
        None,
        sources={name: {"version": 1, "landing": f"landing/{name}"} for name in ("bedside", "portal")},
        consent={"none_found": "permit"},
        modes={"default": "auto"},
    )
    made = Stage(tenant, open_run)
    made.mirror({"id": "p1", "mrn": "100"}, {"id": "p2", "mrn": "200"})
    return made


def outbox(stage: Stage) -> int:
    return int(stage.rows("SELECT count(*) AS n FROM decision.outbox")[0]["n"])


def later(stage: Stage, **step: int) -> None:
    stage.now += timedelta(**step)


def test_a_record_of_a_known_patient_is_approved_with_key_payload_and_verdict(stage: Stage) -> None:
    record = stage.tell()
    report = stage.decide()
    candidate = stage.candidate(record)
    assert report.states == {"approved": 1}
    assert (candidate["state"], candidate["patient_id"], candidate["revision"]) == ("approved", "p1", 1)
    assert {"code", "valueQuantity"} <= set(candidate["must_keep"])
    (verdict,) = stage.rows("SELECT * FROM decision.verdict")
    assert verdict["outcome"] == "automatic"
    assert {"mapping", "mapping_sha256", "source", "policy", "policy_ids", "consent", "match"} <= set(verdict["versions"])
    assert verdict["expires_at"] - verdict["made_at"] == stage.tenant.verdict_ttl
    assert outbox(stage) == 1


def test_the_same_row_again_is_suppressed_and_sends_nothing(stage: Stage) -> None:
    stage.tell()
    stage.decide()
    again = stage.tell()
    stage.decide()
    assert stage.end_of(again) == ("suppressed", "equal_to_latest")
    assert outbox(stage) == 1


def test_the_same_instant_in_another_offset_is_the_same_fact(stage: Stage) -> None:
    one, other = stage.tell(effective="2026-03-01T08:00:00Z"), stage.tell(effective="2026-03-01T03:00:00-05:00", row="row-2")
    stage.decide()
    assert stage.candidate(one)["business_key"] == stage.candidate(other)["business_key"]


def test_what_commit_gave_back_unsent_may_say_something_else_now(stage: Stage) -> None:
    record = stage.tell(as_of=stage.now)
    stage.decide()
    before = stage.candidate(record)
    later(stage, minutes=1)
    stage.mirror({"id": "p3", "mrn": "300"}, {"id": "p1", "mrn": "100", "replaced_by": "p3"})
    stage.withdraw(before["candidate_id"])
    stage.decide()
    after = stage.candidate(record)
    assert (after["state"], after["patient_id"], after["revision"]) == ("approved", "p3", 1)
    assert after["business_key"] == before["business_key"]
    assert after["content_hash"] != before["content_hash"]
    (revision,) = stage.rows("SELECT * FROM decision.revision")
    assert bytes(revision["content_hash"]) == bytes(after["content_hash"])
    again = stage.tell(as_of=stage.now)
    stage.decide()
    assert stage.end_of(again) == ("suppressed", "equal_to_latest")


def test_a_corrected_value_is_the_next_revision_of_the_same_fact(stage: Stage) -> None:
    first = stage.tell(value=72, as_of=stage.now)
    stage.decide()
    second = stage.tell(value=75, as_of=stage.now + timedelta(hours=1))
    stage.decide()
    assert stage.end_of(second) == ("approved", None)
    assert stage.candidate(second)["business_key"] == stage.candidate(first)["business_key"]
    assert stage.candidate(second)["revision"] == 2
    third = stage.tell(value=72, as_of=stage.now)
    stage.decide()
    assert stage.end_of(third) == ("stale", "older_as_of")


def test_in_one_batch_the_newest_as_of_is_written_and_the_older_is_stale(stage: Stage) -> None:
    old = stage.tell(value=72, as_of=stage.now)
    new = stage.tell(value=75, as_of=stage.now + timedelta(hours=1))
    stage.decide()
    assert stage.end_of(old) == ("stale", "older_as_of")
    assert stage.end_of(new) == ("approved", None)


def test_what_is_said_again_later_makes_stale_what_lies_between(stage: Stage) -> None:
    stage.tell(value=72, as_of=stage.now)
    stage.decide()
    stage.tell(value=72, as_of=stage.now + timedelta(hours=2))
    stage.decide()
    between = stage.tell(value=75, as_of=stage.now + timedelta(hours=1))
    stage.decide()
    assert stage.end_of(between) == ("stale", "older_as_of")


def test_an_unknown_patient_waits_and_goes_on_when_registered(stage: Stage) -> None:
    record = stage.tell(mrn="300")
    stage.decide()
    assert stage.end_of(record) == ("waiting", "patient_unknown")
    assert stage.decide().decided == 0, "nothing new in the mirror: no look"
    later(stage, minutes=1)
    stage.mirror({"id": "p3", "mrn": "300"})
    later(stage, minutes=1)
    stage.decide()
    assert stage.end_of(record) == ("approved", None)


def test_who_is_never_registered_ends_in_quarantine(stage: Stage) -> None:
    record = stage.tell(mrn="300")
    stage.decide()
    stage.now += stage.tenant.waiting_ttl + timedelta(seconds=1)
    stage.decide()
    assert stage.end_of(record) == ("quarantined", "no_match_in_time")


VISIT = [{"system": "urn:example:visit", "value": "V9"}]
STAY = {"id": "e1", "patient_id": "p1", "starts_at": datetime(2026, 3, 1, 7, tzinfo=UTC)}


def test_an_encounter_number_that_never_comes_goes_to_a_person_with_the_stay_that_holds_the_time(stage: Stage) -> None:
    stage.mirror(encounters=(STAY,))
    record = stage.tell(encounter=VISIT)
    stage.decide()
    assert stage.end_of(record) == ("waiting", "encounter_unknown")
    stage.now += stage.tenant.waiting_ttl + timedelta(seconds=1)
    stage.decide()
    assert stage.end_of(record) == ("in_review", "encounter_by_time")
    candidate = stage.candidate(record)
    assert (candidate["encounter_id"], candidate["payload"] is not None) == ("e1", True), "the person can approve it"
    (task,) = stage.rows("SELECT * FROM review.task")
    assert task["evidence"]["encounter"] == {"by": "time"}
    (verdict,) = stage.rows("SELECT * FROM decision.verdict")
    assert verdict["reasons"][0] == {"layer": "semantic", "code": "encounter_by_time", "path": "encounter"}


def test_and_is_quarantined_where_no_stay_or_more_than_one_holds_the_time(stage: Stage) -> None:
    stage.mirror(encounters=(STAY, STAY | {"id": "e2"}, STAY | {"id": "e3", "patient_id": "p2"}))
    two = stage.tell(encounter=VISIT)
    none = stage.tell(mrn="200", row="row-2", encounter=VISIT, effective="2026-02-01T08:00:00Z")
    stage.decide()
    stage.now += stage.tenant.waiting_ttl + timedelta(seconds=1)
    stage.decide()
    assert [stage.end_of(record) for record in (two, none)] == [("quarantined", "no_match_in_time")] * 2


def test_what_the_mirror_learns_while_a_batch_is_decided_is_looked_at_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = stage.tell(mrn="300")

    def slowly(*arguments: Any) -> list[Match]:
        matches = match_patients(*arguments)
        stage.now += timedelta(minutes=1)
        stage.mirror({"id": "late", "mrn": "300"})
        stage.now += timedelta(minutes=1)
        return matches

    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "match_patients", slowly)
        stage.decide()
    assert stage.end_of(record) == ("waiting", "patient_unknown")
    stage.decide()
    assert stage.end_of(record) == ("approved", None)


def test_a_row_told_again_while_it_waits_is_not_two(stage: Stage) -> None:
    stage.tell(mrn="300")
    stage.decide()
    again = stage.tell(mrn="300")
    stage.decide()
    assert stage.end_of(again) == ("suppressed", "already_waiting")


@pytest.mark.parametrize("change", [{"mrn": "200"}, {"effective": "2026-03-01T09:00:00Z"}])
def test_a_correction_of_patient_or_time_is_one_task_to_retract_and_create(stage: Stage, change: dict[str, Any]) -> None:
    first = stage.tell()
    stage.decide()
    corrected = stage.tell(**change)
    stage.decide()
    assert stage.end_of(corrected) == ("in_review", "identity_changed")
    (task,) = stage.rows("SELECT * FROM review.task")
    assert task["evidence"]["retract"] == stage.candidate(first)["business_key"]
    assert task["evidence"]["create"] == stage.candidate(corrected)["business_key"]
    assert outbox(stage) == 1
    again = stage.tell(**change)
    stage.decide()
    assert stage.end_of(again) == ("suppressed", "already_in_review")
    assert len(stage.rows("SELECT * FROM review.task")) == 1


def test_the_same_fact_from_a_second_source_is_suppressed_or_reviewed(stage: Stage) -> None:
    stage.tell()
    stage.decide()
    equal, other = stage.tell(source="portal"), stage.tell(source="portal", row="row-2", value=99)
    stage.decide()
    assert stage.end_of(equal)[0] == "suppressed"
    assert stage.end_of(other) == ("in_review", "owned_by_other_source")


def test_what_is_denied_owns_nothing(stage: Stage) -> None:
    stage.mirror(consents=(DENY,))
    denied = stage.tell(source="portal")
    stage.decide()
    assert stage.end_of(denied) == ("denied", "consent_deny")
    stage.mirror(consents=(PERMIT | {"meta": {"versionId": "3"}},))
    allowed = stage.tell(source="bedside")
    stage.decide()
    assert stage.end_of(allowed) == ("approved", None)


def test_the_verdict_names_the_consent_that_it_was_made_on(stage: Stage) -> None:
    stage.mirror(consents=(DENY,))
    stage.tell()
    stage.decide()
    (verdict,) = stage.rows("SELECT versions, outcome FROM decision.verdict")
    assert verdict["outcome"] == "denied"
    assert verdict["versions"]["consent"]["id"] == "c1"
    assert verdict["versions"]["consent"]["version"] == "2"


def test_a_merge_aliases_two_persons_and_mints_no_key_anew(stage: Stage) -> None:
    before, other = stage.tell(mrn="100"), stage.tell(mrn="200", effective="2026-03-01T11:00:00Z", row="row-9")
    stage.decide()
    stage.mirror({"id": "p1", "mrn": "100", "replaced_by": "p2"})
    again = stage.tell(mrn="100", row="row-1")
    told_of_survivor = stage.tell(mrn="200", row="row-9", effective="2026-03-01T11:00:00Z")
    stage.decide()
    assert stage.candidate(again)["business_key"] == stage.candidate(before)["business_key"]
    assert stage.candidate(told_of_survivor)["business_key"] == stage.candidate(other)["business_key"]
    assert stage.end_of(told_of_survivor) == ("suppressed", "equal_to_latest")


def test_a_survivor_never_seen_before_takes_over_the_person(stage: Stage) -> None:
    before = stage.tell(mrn="100")
    stage.decide()
    stage.mirror({"id": "p9", "mrn": "900"}, {"id": "p1", "mrn": "100", "replaced_by": "p9"})
    after = stage.tell(mrn="100", effective="2026-03-01T12:00:00Z", row="row-5")
    stage.decide()
    assert stage.candidate(after)["patient_id"] == "p9"
    assert stage.candidate(after)["person_id"] == stage.candidate(before)["person_id"]


def test_a_new_identity_key_finds_what_an_older_generation_wrote(stage: Stage, home: Any) -> None:
    before = stage.tell()
    stage.decide()
    path = home / "tenants" / f"{stage.tenant.tenant}.yaml"
    newer = home / "keys" / "newer.identity"
    newer.touch(mode=0o600)
    newer.write_bytes(base64.b64encode(b"n" * 32))
    old = f"file://keys/{stage.tenant.tenant}.identity"
    path.write_text(path.read_text().replace(f"- {old}", f"- file://keys/newer.identity\n  - {old}"))
    again = stage.tell(row="row-1")
    stage.decide()
    assert stage.candidate(again)["business_key"] == stage.candidate(before)["business_key"]
    assert stage.end_of(again) == ("suppressed", "equal_to_latest")
    corrected = stage.tell(mrn="200", row="row-1")
    stage.decide()
    assert stage.end_of(corrected) == ("in_review", "identity_changed")


@pytest.mark.parametrize("mode", ["off", "shadow"])
def test_raising_the_mode_sends_nothing_old(stage: Stage, home: Any, mode: str) -> None:
    path = home / "tenants" / f"{stage.tenant.tenant}.yaml"
    text = path.read_text()
    path.write_text(text.replace("default: auto", f"default: '{mode}'"))
    held = stage.tell()
    stage.decide()
    assert stage.end_of(held) == ("not_written", f"mode_{mode}")
    path.write_text(text)
    assert stage.decide().decided == 0
    again = stage.tell()
    stage.decide()
    assert stage.end_of(again)[0] == "suppressed"
    assert outbox(stage) == 0


def test_review_all_sends_each_write_to_a_person(stage: Stage, home: Any) -> None:
    path = home / "tenants" / f"{stage.tenant.tenant}.yaml"
    path.write_text(path.read_text().replace("default: auto", "default: review_all"))
    record = stage.tell()
    stage.decide()
    assert stage.end_of(record) == ("in_review", "mode_review_all")


def test_sampled_sends_a_fixed_share_to_a_person(stage: Stage, home: Any) -> None:
    path = home / "tenants" / f"{stage.tenant.tenant}.yaml"
    path.write_text(path.read_text().replace("default: auto", "default: sampled\n  sample: 0.5"))
    records = [stage.tell(row=f"row-{n}", effective=f"2026-03-01T08:{n:02}:00Z") for n in range(40)]
    stage.decide()
    ends = [stage.end_of(record) for record in records]
    assert set(ends) == {("approved", None), ("in_review", "mode_sampled")}
    assert 8 <= ends.count(("approved", None)) <= 32
    for record, end in zip(records, ends, strict=True):
        stage.withdraw(stage.candidate(record)["candidate_id"])
        if end[0] == "in_review":
            break
    stage.decide()
    assert [stage.end_of(record) for record in records] == ends, "looked at again, each is in the sample or out as before"


def test_what_commit_gives_back_is_decided_again_under_its_revision(stage: Stage) -> None:
    record = stage.tell()
    stage.decide()
    first = stage.candidate(record)
    stage.withdraw(first["candidate_id"])
    stage.decide()
    second = stage.candidate(record)
    assert (second["state"], second["revision"], second["candidate_id"]) == ("approved", 1, first["candidate_id"])
    assert second["verdict_id"] != first["verdict_id"]
    assert outbox(stage) == 1


def test_given_back_and_then_denied_its_revision_counts_for_nothing(stage: Stage) -> None:
    record = stage.tell()
    stage.decide()
    stage.mirror(consents=(DENY,))
    stage.withdraw(stage.candidate(record)["candidate_id"])
    stage.decide()
    assert stage.end_of(record) == ("denied", "consent_deny")
    stage.mirror(consents=(PERMIT | {"meta": {"versionId": "3"}},))
    again = stage.tell()
    stage.decide()
    assert stage.end_of(again) == ("approved", None)
    assert stage.candidate(again)["revision"] == 2


def test_given_back_after_a_newer_revision_it_is_stale(stage: Stage) -> None:
    record = stage.tell(value=72, as_of=stage.now)
    stage.decide()
    stage.tell(value=75, as_of=stage.now + timedelta(hours=1))
    stage.decide()
    stage.withdraw(stage.candidate(record)["candidate_id"])
    stage.decide()
    assert stage.end_of(record) == ("stale", "superseded")


def test_a_deceased_patient_is_for_a_person(stage: Stage) -> None:
    stage.mirror({"id": "p4", "mrn": "400", "deceased": True})
    record = stage.tell(mrn="400")
    stage.decide()
    assert stage.end_of(record) == ("in_review", "patient_deceased")


def test_the_same_number_in_two_hospitals_is_two_patients(stage: Stage, make_tenant: Any, open_run: Any) -> None:
    other = Stage(make_tenant(None, sources={"bedside": {"version": 1, "landing": "landing/b"}}), open_run)
    other.mirror()
    record = other.tell(mrn="100")
    other.decide()
    assert other.end_of(record) == ("waiting", "patient_unknown")


def test_a_kind_without_a_mapping_is_kept_aside(stage: Stage, home: Any) -> None:
    path = home / "tenants" / f"{stage.tenant.tenant}.yaml"
    path.write_text(path.read_text().replace("  vital_sign: 1\n", ""))
    record = stage.tell()
    stage.decide()
    assert stage.end_of(record) == ("quarantined", "no_mapping")


def test_no_plain_column_holds_a_value_of_a_patient(stage: Stage, database: Any) -> None:
    stage.mirror({"id": "p7", "mrn": "MARKER-700", "family": "MARKERFAMILY"})
    stage.tell(mrn="MARKER-700", value="61.73", effective="2026-02-27T06:31:47Z", text="MARKERTEXT")
    stage.tell(mrn="MARKER-701", value="61.73", effective="2026-02-27T06:31:47Z", row="MARKER-ROW")
    stage.decide()
    query = "SELECT candidate_id, payload FROM decision.candidate WHERE payload IS NOT NULL"
    with stage.open("decide", stage.tenant.tenant) as run, run.store.tenant(run.id) as connection:
        payloads = [run.sealer.open("decision.candidate.payload", *row) for row in connection.execute(query)]
    with connect(database.superuser) as connection:
        tables = connection.execute(
            "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN "
            "('landing','canonical','decision','mirror','ledger','review','quarantine','audit','ops')"
        ).fetchall()
        dump = "".join(str(row) for (table,) in tables for row in connection.execute(f"SELECT t::text FROM {table} t").fetchall())
    for marker in ("MARKER", "61.73", "06:31:47", "1970-01-01"):
        assert marker not in dump
        assert marker.encode().hex() not in dump
    assert payloads
    for payload in payloads:
        assert hashlib.sha256(payload).hexdigest() not in dump, "who tries all values would find this one"


def test_merges_one_after_the_other_mint_no_key_anew(stage: Stage) -> None:
    before = stage.tell(mrn="100")
    stage.decide()
    stage.mirror(  # the one in the middle was never seen with a fact
        {"id": "p9", "mrn": "900"},
        {"id": "p8", "mrn": "800", "replaced_by": "p9"},
        {"id": "p1", "mrn": "100", "replaced_by": "p8"},
    )
    again = stage.tell(mrn="100")
    stage.decide()
    assert stage.candidate(again)["patient_id"] == "p9"
    assert stage.candidate(again)["business_key"] == stage.candidate(before)["business_key"]


def test_an_alias_of_an_alias_is_the_same_person(stage: Stage) -> None:
    stage.mirror({"id": "p3", "mrn": "300"})
    before = stage.tell(mrn="100")
    stage.tell(mrn="200", row="row-2", effective="2026-03-01T09:00:00Z")
    stage.tell(mrn="300", row="row-3", effective="2026-03-01T10:00:00Z")
    stage.decide()
    stage.mirror({"id": "p1", "mrn": "100", "replaced_by": "p2"})
    stage.tell(mrn="100", row="row-4", effective="2026-03-01T11:00:00Z")
    stage.decide()
    with (
        stage.open("commit", stage.tenant.tenant) as run,
        run.store.tenant(run.id) as c,
    ):  # the EHR forgot the first of them meanwhile
        c.execute("DELETE FROM mirror.patient WHERE tenant = %s AND patient_id = 'p1'", (run.id,))
    stage.mirror({"id": "p2", "mrn": "200", "replaced_by": "p3"})
    again = stage.tell(mrn="200", row="row-1")
    stage.decide()
    assert stage.candidate(again)["patient_id"] == "p3"
    assert stage.candidate(again)["business_key"] == stage.candidate(before)["business_key"]


def test_a_row_that_is_missing_from_a_later_extract_retracts_nothing(stage: Stage) -> None:
    stage.tell()
    gone = stage.tell(row="row-2", effective="2026-03-01T09:00:00Z")
    stage.decide()
    stage.tell()
    stage.decide()
    assert stage.end_of(gone) == ("approved", None)
    assert stage.rows("SELECT * FROM review.task") == []
    assert outbox(stage) == 2


@pytest.mark.parametrize(
    ("change", "instead"),
    [
        ({"mrn": "300"}, "waiting.patient_unknown"),
        ({"mrn": "200"}, "denied.consent_deny"),
    ],
)
def test_a_corrected_patient_brings_the_old_resource_to_a_person_whatever_becomes_of_the_new(
    stage: Stage, change: dict[str, Any], instead: str
) -> None:
    first = stage.tell()
    stage.decide()
    stage.mirror(consents=(DENY | {"patient": {"reference": "Patient/p2"}},))
    corrected = stage.tell(**change)
    stage.decide()
    assert stage.end_of(corrected) == ("in_review", "identity_changed")
    (task,) = stage.rows("SELECT * FROM review.task")
    assert task["evidence"]["retract"] == stage.candidate(first)["business_key"]
    assert task["evidence"]["instead"] == instead
    assert outbox(stage) == 1


def test_a_row_whose_patient_left_the_mirror_waits_as_ever(stage: Stage) -> None:
    stage.tell()
    stage.decide()
    with stage.open("commit", stage.tenant.tenant) as run, run.store.tenant(run.id) as c:
        c.execute("DELETE FROM mirror.patient WHERE tenant = %s AND patient_id = 'p1'", (run.id,))
        c.execute("DELETE FROM mirror.patient_identifier WHERE tenant = %s AND patient_id = 'p1'", (run.id,))
    corrected = stage.tell(value=75)
    stage.decide()
    assert stage.end_of(corrected) == ("waiting", "patient_unknown")


def test_only_the_owner_moves_the_time_up_to_which_a_fact_is_told(stage: Stage) -> None:
    stage.tell(source="bedside", as_of=datetime(2026, 3, 1, tzinfo=UTC))
    stage.decide()
    stage.tell(source="portal", as_of=datetime(2026, 3, 9, tzinfo=UTC))
    stage.decide()
    corrected = stage.tell(source="bedside", value=75, as_of=datetime(2026, 3, 5, tzinfo=UTC))
    stage.decide()
    assert stage.end_of(corrected) == ("approved", None)


def test_original_and_correction_of_one_batch_are_asked_as_create_and_update(stage: Stage) -> None:
    first, second = stage.tell(value=72), stage.tell(value=75)
    report = stage.decide()
    assert report.states == {"approved": 2}
    asked = [stage.context(one)["policy"]["interaction"] for one in (first, second)]
    assert asked == ["create", "update"]


def _verdict_of_item(stage: Stage, record: Any) -> dict[str, Any]:
    (verdict,) = stage.rows(
        "SELECT v.* FROM decision.verdict v JOIN decision.candidate c USING (tenant, verdict_id) WHERE c.record_id = %s", record
    )
    return verdict


def test_everything_that_validation_finds_stands_in_the_verdict(stage: Stage, database: Any) -> None:
    record = stage.tell(quantity={"value": "72", "unit": "bananas", "code": "bananas"})
    stage.decide()
    assert stage.end_of(record) == ("quarantined", "invalid_ucum")
    verdict = _verdict_of_item(stage, record)
    assert verdict["outcome"] == "denied"
    place = {"layer": "semantic", "path": "Observation.valueQuantity.code", "severity": "error"}
    assert verdict["reasons"] == [{**place, "code": "ucum"}, {**place, "code": "vs-unit"}]
    assert verdict["versions"]["mapping"] == "vital_sign/1"
    assert "bananas" not in repr(verdict)
    with connect(database.superuser) as owner:
        items = owner.execute("SELECT code, path, verdict_id FROM quarantine.item WHERE tenant = %s", (stage.tenant.tenant,))
        assert items.fetchall() == [("invalid_ucum", "Observation.valueQuantity.code", verdict["verdict_id"])]


def test_a_payload_of_many_faults_names_the_first_twenty(stage: Stage) -> None:
    wrong = {"value": "1", "unit": "x", "code": "bananas"}
    parts = [{"code": {"codings": [{"system": "http://loinc.org", "code": f"{n}-1"}]}, "quantity": wrong} for n in range(30)]
    record = stage.tell(components=parts)
    stage.decide()
    assert stage.end_of(record) == ("quarantined", "invalid_ucum")
    paths = [reason["path"] for reason in _verdict_of_item(stage, record)["reasons"]]
    assert paths == [f"Observation.component[{n}].valueQuantity.code" for n in range(20)]


def test_a_warning_stops_nothing_and_is_told(stage: Stage) -> None:
    code = {"codings": [{"system": "http://snomed.info/sct", "code": "38341003"}]}
    record = stage.say({"kind": "condition", "code": code, "category": "problem-list-item"})
    stage.decide()
    assert stage.end_of(record) == ("approved", None)
    reasons = _verdict_of_item(stage, record)["reasons"]
    assert reasons[0]["layer"] == "policy", "what decided comes first"
    assert reasons[1:] == [{"layer": "semantic", "code": "con-3", "path": "Condition", "severity": "warning"}]


def test_a_record_that_does_not_open_costs_that_record_alone(stage: Stage, database: Database) -> None:
    fresh, neighbour = stage.tell(), stage.tell(row="row-2", effective="2026-03-01T09:00:00Z")
    waited = stage.tell("404", row="row-3")
    stage.decide()
    assert stage.end_of(waited)[0] == "waiting"
    late, good = (
        stage.tell(row="row-4", effective="2026-03-02T08:00:00Z"),
        stage.tell(row="row-5", effective="2026-03-02T09:00:00Z"),
    )
    with connect(database.superuser, application="attacker") as attacker:
        attacker.execute(
            "UPDATE canonical.record SET body = set_byte(body, length(body) - 1, get_byte(body, length(body) - 1) # 1) "
            "WHERE record_id = ANY (%s)",
            ([waited, late],),
        )
    stage.look_up()
    report = stage.decide()
    assert report.reasons["quarantined.not_openable"] == 2
    assert stage.end_of(good)[0] == "approved"
    assert stage.end_of(waited) == ("quarantined", "not_openable")
    assert {stage.end_of(one)[0] for one in (fresh, neighbour)} == {"approved"}
    with connect(database.superuser, application="reader") as reader:
        found = reader.execute(
            "SELECT record_id, code FROM quarantine.item WHERE layer = 'decide' AND record_id = ANY (%s)", ([waited, late],)
        ).fetchall()
    assert sorted(found) == sorted([(waited, "not_openable"), (late, "not_openable")])
    stage.look_up()
    assert stage.decide().decided == 0, "neither is taken up again"
