"""What an agent hands over as FHIR goes through the same gates as a row: it is decided on, and written as the mapping says."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import MakeTenant, OpenLayer
from decide.stage import MRN, Stage

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.ingest.pipeline import land, normalise

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


def test_an_agent_s_resources_are_proposals_like_any_others(make_tenant: MakeTenant, workplace: OpenLayer, home: Path) -> None:
    (home / "expectations").unlink()
    (home / "expectations").mkdir()
    tenant = make_tenant(
        None, sources={"fhir_agent": {"version": 1, "landing": "landing/agent"}}, consent={"none_found": "permit"}
    )
    stage = Stage(tenant, workplace)
    stage.mirror({"id": "p100", "mrn": "100"})
    unknown = {**WEIGHT, "id": "o2", "subject": {"identifier": {"system": MRN, "value": "999"}}}
    lines = [json.dumps(one) for one in (WEIGHT, {**WEIGHT, "id": "o3", "modifierExtension": [{"url": "urn:not"}]}, unknown)]
    (home / "landing" / "agent" / "findings.ndjson").write_text("\n".join(lines))
    with workplace("ingest", tenant) as w:
        assert land(w).landed == 1
        report = normalise(w)
    assert (dict(report.kinds), dict(report.reasons)) == ({"vital_sign": 2}, {"unknown_element": 1})
    stage.decide()
    found = {row["reason"]: row for row in stage.rows("SELECT * FROM decision.candidate ORDER BY reason")}
    assert set(found) == {"policy_review", "patient_unknown"}, "an agent that does not say how sure it is is looked at"
    row = found["policy_review"]
    with workplace("decide", tenant) as w:
        payload = canonicaljson.decode(w.sealer.open("decision.candidate.payload", row["candidate_id"], row["payload"]))
    assert payload["subject"] == {"reference": "Patient/p100"}
    assert payload["identifier"] == [{"system": tenant.identifier_system, "value": row["business_key"]}]
    assert "id" not in payload
