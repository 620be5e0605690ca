"""Security labels: by code, by age and by the source; into the questions, the verdict and the payload."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeTenant, OpenLayer
from decide.stage import Stage

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.canonical import CanonicalRecord, from_json
from fhir_writeback_dagster.decide.ruling.labels import MAX_CODINGS, codings_in, labelled, load_labels
from fhir_writeback_dagster.errors import CandidateProblem, ConfigError
from fhir_writeback_dagster.rules.consent.codes import ACT_CODE

LABELS = Path(__file__).resolve().parents[3] / "mappings" / "labels"
SNOMED, LOINC, ICD = "http://snomed.info/sct", "http://loinc.org", "http://hl7.org/fhir/sid/icd-10-cm"
ALCOHOLISM, HIV_TEST = (SNOMED, "7200002"), (LOINC, "7918-6")
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
THO = "http://terminology.hl7.org/CodeSystem/"


def record(**fields: Any) -> CanonicalRecord:
    code = {"codings": [{"system": SNOMED, "code": "1"}]}
    return from_json({"kind": "condition", "patient": {}, "actor": {"type": "source", "id": "s"}, "code": code, **fields})


def labels(*codings: tuple[str, str], born: str | None = None, **fields: Any) -> list[str]:
    found = load_labels(LABELS, 1).of(record(**fields), codings, born, NOW)
    assert {system for system, _ in found} <= {ACT_CODE, f"{THO}v3-Confidentiality"}
    return [code for _, code in found]


@pytest.mark.parametrize(
    ("coding", "label"),
    [
        (ALCOHOLISM, "ETHUD"),
        ((ICD, "F10.20"), "ETHUD"),
        ((ICD, "K70.30"), "ETHUD"),
        ((ICD, "F11.10"), "OPIOIDUD"),
        ((ICD, "F14.1"), "SUD"),
        ((ICD, "F32.9"), "MH"),
        ((ICD, "B20"), "HIV"),
        (HIV_TEST, "HIV"),
    ],
)
def test_a_code_earns_its_label(coding: tuple[str, str], label: str) -> None:
    assert labels(("urn:x", "F10.20"), coding) == [label]


@pytest.mark.parametrize("coding", [(ICD, "F17.210"), (ICD, "E11.9"), (ICD, "K29.1"), (SNOMED, "72000029"), (LOINC, "F10.20")])
def test_other_codes_earn_none(coding: tuple[str, str]) -> None:
    assert labels(coding) == []


@pytest.mark.parametrize(
    ("born", "at", "expected"),
    [
        ("2014-03-02", "2026-03-02T08:00:00Z", ["ADOL"]),
        ("2014-03-03", "2026-03-02T08:00:00Z", []),
        ("2008-03-03", "2026-03-02T08:00:00Z", ["ADOL"]),
        ("2008-03-02", "2026-03-02T08:00:00Z", []),
        ("2008", "2026-03-02T08:00:00Z", ["ADOL"]),
        ("2007", "2026-03-02T08:00:00Z", []),
        ("2014", "2026-03-02T08:00:00Z", ["ADOL"]),
        ("2008-03-02", "2026", ["ADOL"]),
        ("1990-05-05", "2004-01-01", ["ADOL"]),
        ("2010-05-05", "2009-01-01", []),
        ("soon", "2026-03-02", []),
        (None, "2026-03-02", []),
    ],
)
def test_whoever_was_between_twelve_and_eighteen_at_the_event(born: str | None, at: str, expected: list[str]) -> None:
    assert labels(born=born, recorded=at) == expected


def test_what_has_no_time_is_as_of_now() -> None:
    assert labels(born="2010-01-01") == ["ADOL"]
    assert labels(born="2008-01-01") == []


def test_what_the_source_says_goes_along() -> None:
    own = [{"system": f"{THO}v3-Confidentiality", "code": "R"}, {"system": ACT_CODE, "code": "ETHUD"}]
    assert labels(ALCOHOLISM, labels=own) == ["ETHUD", "R"]


def test_every_coding_is_found_once_wherever_it_stands() -> None:
    def concept(*codes: str) -> dict[str, Any]:
        return {"coding": [{"system": LOINC, "code": code} for code in codes]}

    payload = {
        "resourceType": "Observation",
        "meta": {"security": [{"system": ACT_CODE, "code": "HIV"}]},
        "code": concept("b", "a"),
        "component": [{"code": concept("c"), "valueCodeableConcept": concept("d", "a")}],
        "valueQuantity": {"value": 1, "system": "http://unitsofmeasure.org", "code": "kg"},
        "extension": [{"url": "x", "valueCoding": {"system": LOINC, "code": "e"}}],
        "contained": [{"resourceType": "Medication", "code": concept("f")}],
    }
    assert codings_in(payload) == tuple((LOINC, code) for code in "abcdef")
    with pytest.raises(CandidateProblem):
        codings_in({"code": concept(*map(str, range(MAX_CODINGS + 1)))})


def test_a_payload_without_labels_is_the_same() -> None:
    payload = {"resourceType": "Observation"}
    assert labelled(payload, ()) is payload
    assert "meta" not in payload
    assert labelled({"meta": {"profile": ["p"]}}, [(ACT_CODE, "HIV")]) == {
        "meta": {"profile": ["p"], "security": [{"system": ACT_CODE, "code": "HIV"}]}
    }


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no list of labels 9"):
        load_labels(LABELS, 9)
    (tmp_path / "1.yaml").write_text("version: 1\nabout: x\nsources: [x]\ncodes: {HIV: {urn:x: [7]}}\n")
    with pytest.raises(ConfigError, match="string"):
        load_labels(tmp_path, 1)


# --- through decide


@pytest.fixture
def stage(make_tenant: MakeTenant, open_run: OpenLayer) -> Stage:
    tenant = make_tenant(None, consent={"none_found": "permit"})
    return Stage(tenant, open_run, now=NOW)


def consent(patient: str, *named: str, **provision: Any) -> dict[str, Any]:
    """Permits everything of ``patient``, and with ``named`` these labels by name."""
    root: dict[str, Any] = {"type": "permit", **provision}
    if named:
        root["securityLabel"] = [{"system": ACT_CODE, "code": label} for label in named]
    return {
        "resourceType": "Consent",
        "id": f"c-{patient}",
        "meta": {"versionId": "1"},
        "status": "active",
        "scope": {"coding": [{"system": f"{THO}consentscope", "code": "patient-privacy"}]},
        "patient": {"reference": f"Patient/{patient}"},
        "provision": root,
    }


def drinks() -> dict[str, Any]:
    code = {"codings": [{"system": SNOMED, "code": ALCOHOLISM[1], "display": "Alcoholism"}]}
    return {"kind": "condition", "code": code, "onset": "2026-03-01", "clinical_status": "active"}


def opened(stage: Stage, record_id: Any, column: str) -> Any:
    row = stage.candidate(record_id)
    with stage.open("decide", stage.tenant.tenant) as run:
        return canonicaljson.decode(run.sealer.open(f"decision.candidate.{column}", row["candidate_id"], row[column]))


def verdict(stage: Stage, record_id: Any) -> dict[str, Any]:
    rows = stage.rows(
        "SELECT v.* FROM decision.verdict v JOIN decision.candidate c USING (tenant, verdict_id) WHERE c.record_id = %s",
        record_id,
    )
    return rows[0]


@pytest.mark.parametrize(
    ("named", "end"),
    [
        ((), ("denied", "consent_deny")),
        (("MH",), ("denied", "consent_deny")),
        (("BH",), ("denied", "consent_deny")),
        (("ETHUD",), ("approved", None)),
        (("SUD",), ("approved", None)),
        (("42CFRPart2",), ("approved", None)),
    ],
)
def test_an_alcohol_diagnosis_needs_a_permit_that_names_it(
    stage: Stage, named: tuple[str, ...], end: tuple[str, str | None]
) -> None:
    stage.mirror({"id": "p100", "mrn": "100"}, consents=(consent("p100", *named),))
    drinking = stage.say(drinks())
    stage.decide()
    assert stage.end_of(drinking) == end
    assert opened(stage, drinking, "payload")["meta"] == {"security": [{"system": ACT_CODE, "code": "ETHUD"}]}
    context = opened(stage, drinking, "context")
    assert context["consent"]["labels"] == [[ACT_CODE, "ETHUD"]]
    assert context["policy"]["labels"] == [f"{ACT_CODE}|ETHUD"]
    versions = verdict(stage, drinking)["versions"]
    assert (versions["labels"]["version"], versions["labels"]["count"]) == (1, 1)
    assert "ETHUD" not in repr(versions), "a verdict is no sealed column"
    if end[0] == "denied":
        assert versions["consent"]["reason"] in ("restricted_not_permitted", "none_applies")


def test_without_any_consent_it_is_denied_and_a_heart_rate_is_not(stage: Stage) -> None:
    stage.mirror({"id": "p100", "mrn": "100"})
    drinking, beating = stage.say(drinks()), stage.tell()
    stage.decide()
    assert stage.end_of(drinking) == ("denied", "consent_deny")
    assert stage.end_of(beating) == ("approved", None)
    assert "meta" not in opened(stage, beating, "payload"), "what is not labelled has the content that it always had"


def test_the_age_comes_from_the_chart(stage: Stage) -> None:
    stage.mirror({"id": "p100", "mrn": "100", "birth_date": "2010-06-01"}, {"id": "p200", "mrn": "200"})
    young, grown = stage.tell("100"), stage.tell("200", row="row-2")
    stage.decide()
    assert stage.end_of(young) == ("denied", "consent_deny")
    assert stage.end_of(grown) == ("approved", None)


def test_a_label_of_the_source_counts_as_any_other(stage: Stage) -> None:
    stage.mirror({"id": "p100", "mrn": "100"})
    beating = stage.tell(labels=[{"system": ACT_CODE, "code": "42CFRPart2"}])
    stage.decide()
    assert stage.end_of(beating) == ("denied", "consent_deny")


@pytest.mark.parametrize("place", ["component", "value"])
def test_a_ban_on_a_code_is_heard_wherever_the_code_stands(stage: Stage, place: str) -> None:
    banned = {"type": "deny", "code": [{"coding": [{"system": LOINC, "code": "9279-1"}]}]}
    stage.mirror({"id": "p100", "mrn": "100"}, consents=(consent("p100", provision=[banned]),))
    concept = {"codings": [{"system": LOINC, "code": "9279-1"}]}
    count = {"value": "18", "unit": "/min", "code": "/min"}
    told: dict[str, Any] = (
        {"components": [{"code": concept, "quantity": count}]} if place == "component" else {"concept": concept}
    )
    beating = stage.say(
        {
            "kind": "lab_result",
            "effective": "2026-03-01",
            "code": {"codings": [{"system": LOINC, "code": "1-8"}]},
        }
        | told
    )
    stage.decide()
    assert stage.end_of(beating) == ("denied", "consent_deny")


def test_a_policy_hears_of_codes_in_components_and_of_labels(make_tenant: MakeTenant, open_run: OpenLayer, home: Path) -> None:
    shipped = (home / "policies").resolve()
    (home / "policies").unlink()
    (home / "policies").mkdir()
    for name in ("schema.cedarschema", "baseline.cedar"):
        (home / "policies" / name).write_bytes((shipped / name).read_bytes())
    (home / "policies" / "own.cedar").write_text(
        f'@id("no-hiv") forbid (principal, action, resource) when {{ context.labels.contains("{ACT_CODE}|HIV") }};\n'
        f'@id("no-rate") forbid (principal, action, resource) when {{ context.codes.contains("{LOINC}|9279-1") }};\n'
    )
    stage = Stage(make_tenant(None, consent={"none_found": "permit"}, policies=["baseline", "own"]), open_run, now=NOW)
    stage.mirror({"id": "p100", "mrn": "100"})
    quantity = {"value": "1", "unit": "1", "code": "1"}
    exam = {
        "kind": "lab_result",
        "effective": "2026-03-01",
        "code": {"codings": [{"system": LOINC, "code": "1-8"}]},
    }
    codes = {"infected": HIV_TEST[1], "breathing": "9279-1", "other": "2-8"}
    told = {
        name: stage.say(
            exam
            | {
                "components": [{"code": {"codings": [{"system": LOINC, "code": code}]}, "quantity": quantity}],
                "effective": f"2026-02-0{n}",
            },
            row=name,
        )
        for n, (name, code) in enumerate(codes.items(), 1)
    }
    stage.decide()
    deciding = {name: verdict(stage, record)["versions"]["policy_ids"] for name, record in told.items()}
    assert deciding == {"infected": ["no-hiv"], "breathing": ["no-rate"], "other": ["baseline-propose", "baseline-auto-sources"]}
