"""Cedar policies: what the shipped ones decide, and how a wrong one is told."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.canonical import KINDS
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.rules.consent.codes import ACT_CODE
from fhir_writeback_dagster.rules.policy.cedar import PolicyDecision, PolicyRequest, load_policies

POLICIES = Path(__file__).resolve().parents[3] / "policies"
EXAMPLES = sorted(p.relative_to(POLICIES).with_suffix("").as_posix() for p in (POLICIES / "examples").glob("*.cedar"))
ASK = PolicyRequest(
    tenant="mercy",
    source="lab_portal",
    actor_type="source",
    actor_id="lab_portal",
    kind="vital_sign",
    resource_type="Observation",
    interaction="create",
    confidence=None,
    basis="observed",
    codes=("http://loinc.org|8867-4",),
    encounter_status=None,
    now=datetime(2026, 6, 15, 12, tzinfo=UTC),
)
AGENT = replace(ASK, actor_type="agent", actor_id="scribe", confidence=Decimal("0.95"))
RANK = {"denied": 0, "review": 1, "automatic": 2}


def decide(ask: PolicyRequest, *names: str) -> PolicyDecision:
    (decision,) = load_policies(POLICIES, names or ("baseline",)).decide([ask])
    return decision


@pytest.mark.parametrize("kind", KINDS)
def test_baseline_lets_a_source_propose_every_kind_and_commit_all_but_patients(kind: str) -> None:
    assert decide(replace(ASK, kind=kind)).outcome == ("review" if kind == "patient" else "automatic")


@pytest.mark.parametrize(
    ("ask", "outcome", "ids"),
    [
        (ASK, "automatic", ("baseline-propose", "baseline-auto-sources")),
        (AGENT, "automatic", ("baseline-propose", "baseline-auto-agents")),
        (replace(AGENT, confidence=Decimal("0.9")), "automatic", ("baseline-propose", "baseline-auto-agents")),
        (replace(AGENT, confidence=Decimal("0.89999")), "review", ("baseline-unsure-reviewed",)),
        (replace(AGENT, confidence=None), "review", ()),
        (replace(AGENT, confidence=Decimal(1)), "automatic", ("baseline-propose", "baseline-auto-agents")),
        (replace(AGENT, confidence=Decimal("1E-7")), "review", ("baseline-unsure-reviewed",)),
        (replace(ASK, confidence=Decimal("0.5")), "review", ("baseline-unsure-reviewed",)),
        (replace(ASK, basis="inferred"), "review", ("baseline-inferred-reviewed",)),
        (replace(ASK, kind="patient"), "review", ("baseline-patient-reviewed",)),
        (replace(AGENT, kind="medication_request"), "review", ("baseline-agent-orders-reviewed",)),
        (replace(ASK, kind="medication_request"), "automatic", ("baseline-propose", "baseline-auto-sources")),
        (replace(ASK, encounter_status="entered-in-error"), "review", ("baseline-void-encounter-reviewed",)),
        (replace(ASK, encounter_status="finished"), "automatic", ("baseline-propose", "baseline-auto-sources")),
        (replace(ASK, kind="genome"), "denied", ()),
        (replace(ASK, actor_type="ghost"), "denied", ()),
    ],
)
def test_baseline(ask: PolicyRequest, outcome: str, ids: tuple[str, ...]) -> None:
    assert decide(ask) == PolicyDecision(outcome, ids)  # type: ignore[arg-type]


def test_without_policies_everything_is_denied() -> None:
    assert load_policies(POLICIES, ()).decide([ASK]) == [PolicyDecision("denied")]


@pytest.mark.parametrize(
    ("names", "ask", "outcome", "deciding"),
    [
        (["baseline", "examples/agents_only_vitals"], replace(AGENT, actor_id="monitor-reader", kind="condition"), "denied",
         "monitor-agent-only-vitals"),
        (["baseline", "examples/agents_only_vitals"], replace(AGENT, actor_id="monitor-reader"), "review",
         "monitor-agent-very-sure"),
        (["baseline", "examples/agents_only_vitals"], replace(AGENT, kind="condition"), "automatic", "baseline-auto-agents"),
        (["examples/sources_by_name"], replace(ASK, kind="lab_result"), "automatic", "lab-portal-labs"),
        (["examples/sources_by_name"], ASK, "denied", None),
        (["examples/sources_by_name"], replace(ASK, actor_id="pharmacy_portal", kind="medication_request"), "review", None),
        (["examples/sources_by_name"], replace(ASK, actor_id="pharmacy_portal", kind="allergy"), "automatic",
         "pharmacy-portal-allergies-at-once"),
        (["baseline", "examples/creates_only"], replace(ASK, interaction="update"), "review", "updates-reviewed"),
        (["baseline", "examples/creates_only"], replace(ASK, kind="condition", resource_type="Condition"), "review",
         "conditions-reviewed"),
        (["baseline", "examples/confidence"], replace(AGENT, confidence=Decimal("0.4")), "denied", "hopeless-guesses-denied"),
        (["baseline", "examples/confidence"], replace(AGENT, kind="document", confidence=Decimal("0.94")), "review",
         "documents-need-095"),
        (["baseline", "examples/encounter_open"], replace(ASK, kind="document"), "review", "orders-need-an-encounter"),
        (["baseline", "examples/encounter_open"], replace(ASK, kind="document", encounter_status="finished"), "review",
         "orders-need-an-encounter"),
        (["baseline", "examples/encounter_open"], replace(ASK, kind="document", encounter_status="in-progress"), "automatic",
         "baseline-auto-sources"),
        (["baseline", "examples/encounter_open"], replace(ASK, encounter_status="entered-in-error"), "denied",
         "nothing-for-encounters-in-error"),
        (["baseline", "examples/freeze_window"], replace(ASK, now=datetime(2026, 12, 6, 3, tzinfo=UTC)), "review",
         "upgrade-2026-12"),
        (["baseline", "examples/freeze_window"],
         replace(ASK, now=datetime(2026, 12, 6, 5, 59, tzinfo=timezone(timedelta(hours=-5)))), "review", "upgrade-2026-12"),
        (["baseline", "examples/freeze_window"], replace(ASK, now=datetime(2026, 12, 6, 11, tzinfo=UTC)), "automatic",
         "baseline-auto-sources"),
        (["baseline", "examples/freeze_window"], replace(ASK, now=datetime(2026, 3, 3, 7, 30, tzinfo=UTC)), "review",
         "nightly-backup"),
        (["baseline", "examples/freeze_window"], replace(ASK, now=datetime(2026, 3, 3, 2, 30, tzinfo=UTC)), "automatic",
         "baseline-auto-sources"),
        (["baseline", "examples/code_lists"], replace(ASK, codes=("urn:x|1", "http://loinc.org|7917-8")), "denied",
         "no-hiv-results"),
        (["baseline", "examples/code_lists"],
         replace(ASK, kind="medication_request", codes=("http://www.nlm.nih.gov/research/umls/rxnorm|7804",)), "review",
         "opioids-reviewed"),
        (["baseline", "examples/code_lists"], replace(ASK, actor_id="wearable"), "automatic", "baseline-auto-sources"),
        (["baseline", "examples/code_lists"], replace(ASK, actor_id="wearable", codes=()), "denied", "wearable-only-these"),
        (["baseline", "examples/code_lists"], replace(ASK, actor_id="wearable", codes=("http://loinc.org|8867-4", "urn:x|1")),
         "denied", "wearable-only-these"),
        (["baseline", "examples/labels"], ASK, "automatic", "baseline-auto-sources"),
        (["baseline", "examples/labels"], replace(ASK, labels=(f"{ACT_CODE}|MH",)), "review", "labelled-reviewed"),
        (["baseline", "examples/labels"], replace(ASK, labels=(f"{ACT_CODE}|HIV",)), "denied", "no-hiv-data"),
        (["baseline", "examples/review_everything"], ASK, "review", "review-everything"),
    ],
)  # fmt: skip
def test_examples(names: list[str], ask: PolicyRequest, outcome: str, deciding: str | None) -> None:
    decision = decide(ask, *names)
    assert decision.outcome == outcome
    assert deciding in decision.policy_ids or (deciding is None and decision.policy_ids == ())


asks = st.builds(
    replace,
    st.sampled_from([ASK, AGENT]),
    actor_id=st.sampled_from(["lab_portal", "wearable", "monitor-reader", 'x"; permit (principal, action, resource);', "\n"]),
    kind=st.sampled_from([*KINDS, "?"]),
    resource_type=st.sampled_from(["Observation", "Condition", "Patient"]),
    interaction=st.sampled_from(["create", "update"]),
    confidence=st.none() | st.decimals(0, 1, allow_nan=False),
    basis=st.sampled_from(["observed", "inferred"]),
    codes=st.lists(st.sampled_from(["http://loinc.org|7917-8", "http://loinc.org|8867-4", "é|\0"]), max_size=2).map(tuple),
    encounter_status=st.sampled_from([None, "in-progress", "finished", "entered-in-error"]),
    now=st.integers(-(10**9), 10**11).map(lambda second: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second)),
)


@given(st.lists(asks, max_size=5), st.sampled_from([e for e in EXAMPLES if e != "examples/sources_by_name"]))
def test_a_file_of_forbids_never_opens_anything(some: list[PolicyRequest], example: str) -> None:
    held = load_policies(POLICIES, ["baseline"]).decide(some)
    more = load_policies(POLICIES, ["baseline", example]).decide(some)
    assert all(RANK[b.outcome] <= RANK[a.outcome] for a, b in zip(held, more, strict=True))


@given(asks)
def test_an_ask_survives_being_kept(ask: PolicyRequest) -> None:
    assert PolicyRequest.from_json(canonicaljson.decode(canonicaljson.encode(ask.to_json()))) == ask


def test_answers_come_in_the_order_of_the_asks() -> None:
    mixed = [ASK, replace(ASK, kind="patient"), ASK, replace(ASK, kind="?")] * 50
    outcomes = [d.outcome for d in load_policies(POLICIES, ["baseline"]).decide(mixed)]
    assert outcomes == ["automatic", "review", "automatic", "denied"] * 50


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(POLICIES / "schema.cedarschema", tmp_path)
    return tmp_path


def test_a_policy_that_fails_to_evaluate_denies_although_cedar_would_leave_it_out(folder: Path) -> None:
    (folder / "p.cedar").write_text(
        '@id("open") permit (principal, action, resource);\n'
        '@id("overflow") forbid (principal, action, resource) when { 9223372036854775807 + 1 > 0 };'
    )
    assert load_policies(folder, ["p"]).decide([ASK])[0].outcome == "denied"


def test_the_version_changes_with_every_byte_and_name(folder: Path) -> None:
    (folder / "p.cedar").write_text('@id("a") permit (principal, action, resource);')
    shutil.copy(folder / "p.cedar", folder / "q.cedar")
    versions = {load_policies(folder, ["p"]).version, load_policies(folder, ["q"]).version, load_policies(folder, []).version}
    assert load_policies(folder, ["p"]).version in versions
    (folder / "p.cedar").write_text('@id("a") permit (principal, action, resource); ')
    versions.add(load_policies(folder, ["p"]).version)
    schema = folder / "schema.cedarschema"
    schema.write_text(schema.read_text() + "\n")
    versions.add(load_policies(folder, ["p"]).version)
    assert len(versions) == 5


@pytest.mark.parametrize(
    ("text", "position", "told"),
    [
        ('@id("a")\npermit (principal, action, resource)\nwhen { context.tenant == };', "3:26",
         "unexpected token `}`, expected a word or a text or a number"),
        ('@id("a") permit (principal, action, resource) when { context.tenant === "x" };', "1:71", "unexpected token `=`"),
        ('@id("a") permit (principal, action, resource)', "1:46", "unexpected end of input, expected a word or `;`"),
        ('@id("a") permit (principal, action, resource);\n// ; no end\n@id("b")\npermit (principl, action, resource);', "4:9",
         "principl"),
        ('@id("a")\nPermit (principal, action, resource);', "2:1", "Permit"),
        ('@id("a") permit (principal, action, resource) when { "open\n};', "1:54", "invalid token"),
        ("permit (principal, action, resource);", "1:1", "a policy has no @id"),
        ('\n@id("") permit (principal, action, resource);', "2:1", "a policy has no @id"),
        ('@id("a") permit (principal, action, resource);\n@id("a") forbid (principal, action, resource);', "2:1",
         "the id a stands also at"),
        ('@id("a")\npermit (principal == ?principal, action, resource);', "2:22", "template"),
        ('@id("a")\npermit (principal, action, resource) when { context.confidnce };', "2:53", "`confidnce`"),
        ('@id("a")\npermit (principal, action, resource) when { context.confidence.lessThan(decimal("1.0")) };', "2:53",
         "optional attribute `confidence`"),
        ('@id("a")\npermit (principal, action == Writeback::Action::"commit", resource);', "2:49", "unrecognized action"),
        ('@id("a") permit (principal, action, resource) when { datetime("2026") < context.now };', "1:63", "datetime"),
        ("# not Cedar", "1:1", "invalid token"),
    ],
)  # fmt: skip
def test_a_bad_file_is_told_with_place_and_expectation(folder: Path, text: str, position: str, told: str) -> None:
    (folder / "p.cedar").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_policies(folder, ["p"])
    assert caught.value.where == f"{folder / 'p.cedar'}:{position}"
    assert told in caught.value.message
    assert caught.value.fix


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../b", "", "A b", ".hidden"])
def test_a_name_never_leaves_the_folder(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="bad_policy_name"):
        load_policies(folder, [name])


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no policies nosuch .*baseline, examples/agents_only_vitals"):
        load_policies(POLICIES, ["nosuch"])


def test_a_bad_schema_and_bytes_that_are_no_text(folder: Path) -> None:
    (folder / "p.cedar").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="file_unreadable"):
        load_policies(folder, ["p"])
    (folder / "schema.cedarschema").write_text("entty X;")
    with pytest.raises(ConfigError, match="unexpected token `entty`"):
        load_policies(folder, [])
    (folder / "schema.cedarschema").unlink()
    with pytest.raises(ConfigError, match="file_missing"):
        load_policies(folder, [])
