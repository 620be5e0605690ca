"""What an agent hands over as FHIR goes through the same gates as a row: it is decided on, and written as the mapping says."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

from conftest import MakeTenant, OpenLayer
from decide.stage import MRN, Stage
from support import Database

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.ingest.pipeline import land, normalise
from fhir_writeback_dagster.store.db import connect

WEIGHT = {
    "resourceType": "Observation",
    "id": "o1",
    "status": "final",
    "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "vital-signs"}]}],
    "code": {"coding": [{"system": "http://loinc.org", "code": "29463-7"}]},
    "subject": {"identifier": {"system": MRN, "value": "100"}},
    "effectiveDateTime": "2026-03-01T08:00:00Z",
    "valueQuantity": {"value": 72, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"},
}


ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"


def test_a_label_goes_with_an_agent_s_resource_to_consent_and_into_the_payload(
    make_tenant: MakeTenant, open_run: OpenLayer, home: Path
) -> None:
    (home / "expectations").unlink()
    (home / "expectations").mkdir()
    tenant = make_tenant(
        None, sources={"fhir_agent": {"version": 1, "landing": "landing/agent"}}, consent={"none_found": "permit"}
    )
    stage = Stage(tenant, open_run)
    stage.mirror({"id": "p100", "mrn": "100"})
    labels = {"PSY": "denied", "HIV": "in_review"}
    lines = [
        json.dumps({**WEIGHT, "id": code, "meta": {"security": [{"system": ACT_CODE, "code": code}]}}
                   | {"effectiveDateTime": f"2026-03-01T08:00:0{n}Z"})
        for n, code in enumerate(labels)
    ]  # fmt: skip
    (home / "landing" / "agent" / "findings.ndjson").write_text("\n".join(lines))
    with open_run("ingest", tenant) as run:
        land(run)
        normalise(run)
    stage.decide()
    ends = {}
    with open_run("decide", tenant) as run:
        for row in stage.rows("SELECT * FROM decision.candidate"):
            payload = canonicaljson.decode(run.sealer.open("decision.candidate.payload", row["candidate_id"], row["payload"]))
            (label,) = payload["meta"]["security"]
            ends[label["code"]] = row["state"]
    assert ends == labels


def test_an_agent_s_resources_are_proposals_like_any_others(make_tenant: MakeTenant, open_run: OpenLayer, home: Path) -> None:
    (home / "expectations").unlink()
    (home / "expectations").mkdir()
    tenant = make_tenant(
        None, sources={"fhir_agent": {"version": 1, "landing": "landing/agent"}}, consent={"none_found": "permit"}
    )
    stage = Stage(tenant, open_run)
    stage.mirror({"id": "p100", "mrn": "100"})
    unknown = {**WEIGHT, "id": "o2", "subject": {"identifier": {"system": MRN, "value": "999"}}}
    lines = [json.dumps(one) for one in (WEIGHT, {**WEIGHT, "id": "o3", "modifierExtension": [{"url": "urn:not"}]}, unknown)]
    (home / "landing" / "agent" / "findings.ndjson").write_text("\n".join(lines))
    with open_run("ingest", tenant) as run:
        assert land(run).landed == 1
        report = normalise(run)
    assert (dict(report.kinds), dict(report.reasons)) == ({"vital_sign": 2}, {"unknown_element": 1})
    stage.decide()
    found = {row["reason"]: row for row in stage.rows("SELECT * FROM decision.candidate ORDER BY reason")}
    assert set(found) == {"policy_review", "patient_unknown"}, "an agent that does not say how sure it is is looked at"
    row = found["policy_review"]
    with open_run("decide", tenant) as run:
        payload = canonicaljson.decode(run.sealer.open("decision.candidate.payload", row["candidate_id"], row["payload"]))
    assert payload["subject"] == {"reference": "Patient/p100"}
    assert payload["identifier"] == [{"system": tenant.identifier_system, "value": row["business_key"]}]
    assert "id" not in payload


EHR = "https://ehr.mercy.example/fhir"


def test_an_agent_may_name_the_ehr_s_own_patient(
    make_tenant: MakeTenant, open_run: OpenLayer, home: Path, database: Database
) -> None:
    (home / "expectations").unlink()
    (home / "expectations").mkdir()
    tenant = make_tenant(
        None,
        ehr={"base_url": EHR},
        sources={"fhir_agent": {"version": 2, "landing": "landing/agent"}},
        consent={"none_found": "permit"},
        waiting_ttl="1d",
    )
    stage = Stage(tenant, open_run)
    stage.mirror({"id": "p100", "mrn": "100"})
    references = {
        "own": f"{EHR}/Patient/p100/_history/2",
        "elsewhere": "https://ehr.stv.example/fhir/Patient/p100",
        "not-yet": f"{EHR}/Patient/p101",
        "the sender's": "Patient/p100",
    }
    lines = [json.dumps({**WEIGHT, "id": name, "subject": {"reference": text}}) for name, text in references.items()]
    (home / "landing" / "agent" / "findings.ndjson").write_text("\n".join(lines))
    with open_run("ingest", tenant) as run:
        land(run)
        assert dict(normalise(run).reasons) == {"no_patient": 1}
    stage.decide()
    assert _ends(stage) == {("in_review", "policy_review", "p100"), ("waiting", "patient_of_other_server", None),
                            ("waiting", "patient_unknown", None)}  # fmt: skip
    stage.now += timedelta(hours=1)
    stage.mirror({"id": "p101", "mrn": "101"})
    stage.decide()
    assert ("in_review", "policy_review", "p101") in _ends(stage)
    stage.now += timedelta(days=2)
    stage.mirror()
    stage.decide()
    with connect(database.superuser) as connection:
        found = connection.execute(
            "SELECT code, path FROM quarantine.item WHERE tenant = %s AND layer = 'decide'", (tenant.tenant,)
        )
        assert found.fetchall() == [("no_match_in_time", "patient_of_other_server")]


def _ends(stage: Stage) -> set[tuple[str, str | None, str | None]]:
    return {(row["state"], row["reason"], row["patient_id"]) for row in stage.rows("SELECT * FROM decision.candidate")}
