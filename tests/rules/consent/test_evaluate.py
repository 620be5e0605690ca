"""What R4 Consents mean for one write, case by case."""
# ruff: noqa: E501 - a table is read line by line

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from fhir_writeback_dagster.rules.consent.evaluate import evaluate
from fhir_writeback_dagster.rules.consent.model import ConsentDecision, ConsentRequest

THO = "http://terminology.hl7.org/CodeSystem/"
LOINC = "http://loinc.org"
US = "Organization/mercy"
ASK = ConsentRequest(
    purpose="TREAT",
    actor=US,
    resource_type="Observation",
    codings=((LOINC, "8867-4"),),
    labels=(),
    at=datetime(2026, 6, 15, 12, tzinfo=UTC),
)


def concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": f"{THO}{system}", "code": code}]}


def coding(system: str, code: str) -> dict[str, Any]:
    return {"system": system if ":" in system else f"{THO}{system}", "code": code}


def label(code: str, system: str = "v3-ActCode") -> tuple[str, str]:
    return f"{THO}{system}", code


def consent(provision: dict[str, Any] | None = None, *, rule: str | None = None, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "resourceType": "Consent",
        "id": "c1",
        "meta": {"versionId": "7"},
        "status": "active",
        "scope": concept("consentscope", "patient-privacy"),
        "category": [{"coding": [{"system": LOINC, "code": "59284-0"}]}],
        "patient": {"reference": "Patient/p1"},
        "dateTime": "2025-01-01",
    }
    if rule:
        made["policyRule"] = concept("v3-ActCode", rule)
    if provision is not None:
        made["provision"] = provision
    return made | changes


def permit(*nested: dict[str, Any], **conditions: Any) -> dict[str, Any]:
    return {"type": "permit", **conditions, **({"provision": list(nested)} if nested else {})}


def deny(*nested: dict[str, Any], **conditions: Any) -> dict[str, Any]:
    return {"type": "deny", **conditions, **({"provision": list(nested)} if nested else {})}


def actor(reference: str) -> list[dict[str, Any]]:
    return [{"role": concept("v3-ParticipationType", "IRCP"), "reference": {"reference": reference}}]


TREAT, RESEARCH = [coding("v3-ActReason", "TREAT")], [coding("v3-ActReason", "HRESCH")]
COLLECT, ACCESS = [concept("consentaction", "collect")], [concept("consentaction", "access")]
LOCAL = "urn:example:local"
NPP = concept("consentcategorycodes", "npp")
ODD = [{**actor(US)[0], "foo": 1}]

Case = tuple[str, dict[str, Any], ConsentRequest, str, str | None, str]

CASES: list[Case] = [
    # name, consent, ask, outcome, provision, reason
    ("root permit", consent(permit()), ASK, "permit", "provision", "permitted"),
    ("root deny", consent(deny()), ASK, "deny", "provision", "denied"),
    # base policy
    ("opt-in without provision", consent(rule="OPTIN"), ASK, "permit", "policyRule", "policy_rule"),
    ("opt-out without provision", consent(rule="OPTOUT"), ASK, "deny", "policyRule", "policy_rule"),
    ("opt-in with a root without type", consent({"period": {"start": "2020"}}, rule="OPTIN"), ASK, "permit", "provision", "permitted"),
    ("opt-out with a root without type", consent({}, rule="OPTOUT"), ASK, "deny", "provision", "denied"),
    ("opt-out, but permitted for our purpose", consent(permit(purpose=TREAT), rule="OPTOUT"), ASK, "permit", "provision", "permitted"),
    ("opt-out, permitted for another purpose", consent(permit(purpose=RESEARCH), rule="OPTOUT"), ASK, "deny", "policyRule", "policy_rule"),
    ("opt-in, but denied to another actor", consent(deny(actor=actor("Organization/x")), rule="OPTIN"), ASK, "permit", "policyRule", "policy_rule"),
    ("opt-in does not widen a permit of something else", consent(permit(purpose=RESEARCH), rule="OPTIN"), ASK, "none", None, "none_applies"),
    ("opt-in does not outlive its denial's period", consent(deny(period={"end": "2020"}), rule="OPTIN"), ASK, "none", None, "none_applies"),
    ("unknown policy rule alone", consent(policyRule=concept("consentpolicycodes", "hipaa-auth")), ASK, "deny", "policyRule", "unknown_policy_rule"),
    ("unknown policy rule beside a typed root", consent(permit(), policyRule=concept("x", "y")), ASK, "permit", "provision", "permitted"),
    ("root without type or rule", consent({"purpose": TREAT}), ASK, "deny", "provision", "no_type"),
    ("a signed paper, nothing computable", consent(), ASK, "none", None, "none_applies"),
    # status, scope, category
    *[(f"status {s}", consent(deny(), status=s), ASK, "none", None, "none_applies")
      for s in ("draft", "proposed", "rejected", "inactive", "entered-in-error")],
    ("unknown status", consent(permit(), status="paused"), ASK, "deny", "status", "unknown_construct"),
    ("consent to a treatment", consent(deny(), scope=concept("consentscope", "treatment")), ASK, "none", None, "none_applies"),
    ("advance directive", consent(deny(), scope=concept("consentscope", "adr")), ASK, "none", None, "none_applies"),
    ("research, we treat", consent(deny(), scope=concept("consentscope", "research")), ASK, "none", None, "none_applies"),
    ("research, we do research", consent(deny(), scope=concept("consentscope", "research")), replace(ASK, purpose="HRESCH"), "deny", "provision", "denied"),
    ("local scope", consent(permit(), scope={"coding": [{"system": LOCAL, "code": "x"}]}), ASK, "deny", "scope", "unknown_scope"),
    ("scope in words", consent(permit(), scope={"text": "privacy"}), ASK, "deny", "scope", "unknown_scope"),
    ("no scope", {k: v for k, v in consent(permit()).items() if k != "scope"}, ASK, "deny", "scope", "malformed"),
    ("do not resuscitate", consent(deny(), category=[concept("consentcategorycodes", "dnr")]), ASK, "none", None, "none_applies"),
    ("notice of privacy practices", consent(permit(), category=[concept("consentcategorycodes", "npp")]), ASK, "none", None, "none_applies"),
    ("a notice and a consent document, denied", consent(deny(), category=[NPP, {"coding": [{"system": LOINC, "code": "59284-0"}]}]), ASK, "deny", "provision", "denied"),
    ("a notice and a local category, denied", consent(deny(), category=[NPP, {"coding": [{"system": LOCAL, "code": "x"}]}]), ASK, "deny", "provision", "denied"),
    ("a notice and a category in words, denied", consent(deny(), category=[{"text": "privacy"}, NPP]), ASK, "deny", "provision", "denied"),
    ("a notice that is something local too, denied", consent(deny(), category=[{"coding": [*NPP["coding"], {"system": LOCAL, "code": "x"}]}]), ASK, "deny", "provision", "denied"),
    ("a code of a notice in another system, denied", consent(deny(), category=[{"coding": [{"system": LOCAL, "code": "npp"}]}]), ASK, "deny", "provision", "denied"),
    ("a notice beside a local category permits nothing", consent(permit(), category=[NPP, {"text": "privacy"}]), ASK, "none", None, "none_applies"),
    ("nor lifts its own denial", consent(deny(permit()), category=[NPP, {"text": "privacy"}]), ASK, "deny", "category", "unclear_category"),
    ("two directives", consent(deny(), category=[NPP, concept("consentcategorycodes", "dnr")]), ASK, "none", None, "none_applies"),
    ("a local category", consent(permit(), category=[{"text": "privacy"}]), ASK, "permit", "provision", "permitted"),
    ("emergency only, beside another", consent(permit(), category=[{"text": "privacy"}, concept("consentcategorycodes", "emrgonly")]), ASK, "deny", "category", "emergency_only"),
    ("emergency only", consent(permit(), category=[concept("consentcategorycodes", "emrgonly")]), ASK, "deny", "category", "emergency_only"),
    ("emergency only, in one", consent(permit(), category=[concept("consentcategorycodes", "emrgonly")]), replace(ASK, purpose="ETREAT"), "permit", "provision", "permitted"),
    # period
    ("permit in force", consent(permit(period={"start": "2026-01-01", "end": "2026-12-31"})), ASK, "permit", "provision", "permitted"),
    ("permit over", consent(permit(period={"end": "2026-06-14"})), ASK, "none", None, "none_applies"),
    ("permit that ends today where the tenant is lasts the day", consent(permit(period={"end": "2026-06-15"})), replace(ASK, zone="America/New_York"), "permit", "provision", "permitted"),
    ("permit that ends today somewhere", consent(permit(period={"end": "2026-06-15"})), ASK, "deny", "provision", "unclear_condition"),
    ("permit that ends this month", consent(permit(period={"end": "2026-06"})), ASK, "permit", "provision", "permitted"),
    ("permit that ended a second ago", consent(permit(period={"end": "2026-06-15T13:59:59+02:00"})), ASK, "none", None, "none_applies"),
    ("permit for ever", consent(permit(period={"end": "9999-12-31"})), ASK, "permit", "provision", "permitted"),
    ("permit to come", consent(permit(period={"start": "2026-06-17"})), ASK, "none", None, "none_applies"),
    ("denial over", consent(permit(deny(period={"end": "2026-06-14"}))), ASK, "permit", "provision", "permitted"),
    ("period that is none", consent(permit(period={"start": "soon"})), ASK, "deny", "provision.period", "malformed"),
    ("period reversed", consent(permit(period={"start": "2027", "end": "2020"})), ASK, "deny", "provision.period", "malformed"),
    ("time without offset", consent(permit(period={"start": "2020-01-01T00:00:00"})), ASK, "deny", "provision.period", "malformed"),
    # actor
    ("permit to us", consent(permit(actor=actor(US))), ASK, "permit", "provision", "permitted"),
    ("permit to another", consent(permit(actor=actor("Organization/x"))), ASK, "none", None, "none_applies"),
    ("permit to us and another", consent(permit(actor=actor("Organization/x") + actor(US))), ASK, "permit", "provision", "permitted"),
    ("denial to us", consent(permit(deny(actor=actor(US)))), ASK, "deny", "provision.provision[0]", "denied"),
    ("denial to another", consent(permit(deny(actor=actor("Organization/x")))), ASK, "permit", "provision", "permitted"),
    ("denial to a practitioner", consent(permit(deny(actor=actor("Practitioner/mercy")))), ASK, "permit", "provision", "permitted"),
    ("denial to a group", consent(permit(deny(actor=actor("Group/g")))), ASK, "deny", "provision.provision[0]", "unclear_condition"),
    ("permit to a group", consent(permit(actor=actor("Group/g"))), ASK, "deny", "provision", "unclear_condition"),
    ("denial to our id under another base", consent(permit(deny(actor=actor(f"https://hie.example/fhir/{US}")))), ASK, "deny", "provision.provision[0]", "unclear_condition"),
    ("denial to somebody without a reference", consent(permit(deny(actor=[{"role": {}, "reference": {"display": "Mercy"}}]))), ASK, "deny", "provision.provision[0]", "unclear_condition"),
    ("denial to an actor, our own name not configured", consent(permit(deny(actor=actor("Organization/x")))), replace(ASK, actor=None), "deny", "provision.provision[0]", "unclear_condition"),
    # action
    ("permit to collect", consent(permit(action=COLLECT)), ASK, "permit", "provision", "permitted"),
    ("permit to access only", consent(permit(action=ACCESS)), ASK, "none", None, "none_applies"),
    ("denial of access alone", consent(permit(deny(action=ACCESS))), ASK, "permit", "provision", "permitted"),
    *[(f"denial to {a}", consent(permit(deny(action=[concept("consentaction", a)]))), ASK, "deny", "provision.provision[0]", "denied")
      for a in ("collect", "correct", "use", "disclose")],
    ("denial of an unknown action", consent(permit(deny(action=[concept("x", "y")]))), ASK, "deny", "provision.provision[0]", "unclear_condition"),
    ("permit of an unknown action", consent(permit(action=[{"text": "scrape"}])), ASK, "deny", "provision", "unclear_condition"),
    # purpose
    ("purpose of ours", consent(permit(purpose=TREAT)), ASK, "permit", "provision", "permitted"),
    ("purpose of others", consent(permit(purpose=RESEARCH)), ASK, "none", None, "none_applies"),
    ("a wider purpose includes ours", consent(permit(purpose=TREAT)), replace(ASK, purpose="ETREAT"), "permit", "provision", "permitted"),
    ("a narrower one does not", consent(permit(purpose=[coding("v3-ActReason", "ETREAT")])), ASK, "none", None, "none_applies"),
    ("denial of any use", consent(permit(deny(purpose=[coding("v3-ActReason", "PurposeOfUse")]))), ASK, "deny", "provision.provision[0]", "denied"),
    ("denial for research", consent(permit(deny(purpose=RESEARCH))), ASK, "permit", "provision", "permitted"),
    ("denial for a local purpose", consent(permit(deny(purpose=[coding(LOCAL, "p")]))), ASK, "deny", "provision.provision[0]", "unclear_condition"),
    # class
    ("class of ours", consent(permit(**{"class": [coding("http://hl7.org/fhir/resource-types", "Observation")]})), ASK, "permit", "provision", "permitted"),
    ("class of others", consent(permit(deny(**{"class": [coding("http://hl7.org/fhir/resource-types", "DocumentReference")]}))), ASK, "permit", "provision", "permitted"),
    ("denial of our class", consent(permit(deny(**{"class": [coding("http://hl7.org/fhir/resource-types", "Observation")]}))), ASK, "deny", "provision.provision[0]", "denied"),
    ("denial of a mime type", consent(permit(deny(**{"class": [coding("urn:ietf:bcp:13", "application/hl7-cda+xml")]}))), ASK, "deny", "provision.provision[0]", "unclear_condition"),
    # code
    ("denial of our code", consent(permit(deny(code=[{"coding": [{"system": LOINC, "code": "8867-4"}]}]))), ASK, "deny", "provision.provision[0]", "denied"),
    ("denial of another code", consent(permit(deny(code=[{"coding": [{"system": LOINC, "code": "1-8"}]}]))), ASK, "permit", "provision", "permitted"),
    ("denial of a code in words", consent(permit(deny(code=[{"text": "heart"}]))), ASK, "deny", "provision.provision[0]", "unclear_condition"),
    ("denial of a code, ours has none", consent(permit(deny(code=[{"coding": [{"system": LOINC, "code": "1-8"}]}]))), replace(ASK, codings=()), "deny", "provision.provision[0]", "unclear_condition"),
    # data
    ("denial for an encounter as a whole", consent(permit(deny(data=[{"meaning": "related", "reference": {"reference": "Encounter/e"}}]))), ASK, "deny", "provision.provision[0]", "unclear_condition"),
    ("denial of an instance of another type", consent(permit(deny(data=[{"meaning": "instance", "reference": {"reference": "Condition/c"}}]))), ASK, "permit", "provision", "permitted"),
    ("denial of an instance of our type", consent(permit(deny(data=[{"meaning": "instance", "reference": {"reference": "Observation/o"}}]))), ASK, "deny", "provision.provision[0]", "unclear_condition"),
    # data period
    ("data period, event unknown", consent(permit(deny(dataPeriod={"end": "2020"}))), ASK, "deny", "provision.provision[0]", "unclear_condition"),
    ("data period holds the event", consent(permit(dataPeriod={"start": "2026"})), replace(ASK, event=(ASK.at, ASK.at)), "permit", "provision", "permitted"),
    ("data period before the event", consent(permit(deny(dataPeriod={"end": "2020"}))), replace(ASK, event=(ASK.at, ASK.at)), "permit", "provision", "permitted"),
    ("data period cuts the event", consent(permit(dataPeriod={"start": "2026-06-15"})), replace(ASK, event=(datetime(2026, 1, 1, tzinfo=UTC), ASK.at)), "deny", "provision", "unclear_condition"),
    # labels
    ("permit up to normal, unlabelled", consent(permit(securityLabel=[coding("v3-Confidentiality", "N")])), ASK, "permit", "provision", "permitted"),
    ("permit up to normal, restricted data", consent(permit(securityLabel=[coding("v3-Confidentiality", "N")])), replace(ASK, labels=(label("R", "v3-Confidentiality"),)), "none", None, "none_applies"),
    ("permit up to restricted, normal data", consent(permit(securityLabel=[coding("v3-Confidentiality", "R")])), ASK, "permit", "provision", "permitted"),
    ("denial of restricted, unlabelled", consent(permit(deny(securityLabel=[coding("v3-Confidentiality", "R")]))), ASK, "permit", "provision", "permitted"),
    ("denial of restricted, very restricted data", consent(permit(deny(securityLabel=[coding("v3-Confidentiality", "R")]))), replace(ASK, labels=(label("V", "v3-Confidentiality"),)), "deny", "provision.provision[0]", "denied"),
    ("unknown confidentiality counts as the highest", consent(permit(securityLabel=[coding("v3-Confidentiality", "R")])), replace(ASK, labels=(label("Z", "v3-Confidentiality"),)), "none", None, "none_applies"),
    ("denial of HIV data, labelled", consent(permit(deny(securityLabel=[coding("v3-ActCode", "HIV")]))), replace(ASK, labels=(label("HIV"),)), "deny", "provision.provision[0]", "denied"),
    ("denial of HIV data, unlabelled", consent(permit(deny(securityLabel=[coding("v3-ActCode", "HIV")]))), ASK, "permit", "provision", "permitted"),
    ("denial of behavioural health includes alcohol", consent(permit(deny(securityLabel=[coding("v3-ActCode", "BH")]))), replace(ASK, labels=(label("ETHUD"),)), "deny", "provision.provision[0]", "denied"),
    # restricted categories
    ("a general permit does not cover part 2", consent(permit()), replace(ASK, labels=(label("42CFRPart2"),)), "deny", None, "restricted_not_permitted"),
    ("a named one does", consent(permit(securityLabel=[coding("v3-ActCode", "42CFRPart2")])), replace(ASK, labels=(label("42CFRPart2"),)), "permit", "provision", "permitted"),
    ("named in an exception", consent(permit(permit(securityLabel=[coding("v3-ActCode", "ETH")]))), replace(ASK, labels=(label("ETH"),)), "permit", "provision.provision[0]", "permitted"),
    ("behavioural health does not cover part 2", consent(permit(securityLabel=[coding("v3-ActCode", "BH")])), replace(ASK, labels=(label("SUD"),)), "deny", None, "restricted_not_permitted"),
    ("behavioural health covers psychiatry", consent(permit(securityLabel=[coding("v3-ActCode", "BH")])), replace(ASK, labels=(label("PSY"),)), "permit", "provision", "permitted"),
    ("minors", consent(permit()), replace(ASK, labels=(label("ADOL"),)), "deny", None, "restricted_not_permitted"),
    ("opt-in does not cover restricted data", consent(rule="OPTIN"), replace(ASK, labels=(label("MH"),)), "deny", None, "restricted_not_permitted"),
    ("each label needs its own permit", consent(permit(securityLabel=[coding("v3-ActCode", "ETH")])), replace(ASK, labels=(label("ETH"), label("OPIOIDUD"))), "deny", None, "restricted_not_permitted"),
    ("a permit that names both", consent(permit(securityLabel=[coding("v3-ActCode", "ETH"), coding("v3-ActCode", "OPIOIDUD")])), replace(ASK, labels=(label("ETH"), label("OPIOIDUD"))), "permit", "provision", "permitted"),
    ("a permit that names the parent of both", consent(permit(securityLabel=[coding("v3-ActCode", "SUD")])), replace(ASK, labels=(label("ETH"), label("OPIOIDUD"))), "permit", "provision", "permitted"),
    ("a kind does not cover the whole", consent(permit(securityLabel=[coding("v3-ActCode", "ETHUD")])), replace(ASK, labels=(label("SUD"),)), "deny", None, "restricted_not_permitted"),
    ("part 2 covers every kind of it", consent(permit(securityLabel=[coding("v3-ActCode", "42CFRPart2")])), replace(ASK, labels=(label("ETHUD"),)), "permit", "provision", "permitted"),
    ("no kind covers part 2", consent(permit(securityLabel=[coding("v3-ActCode", "SUD")])), replace(ASK, labels=(label("42CFRPart2"),)), "deny", None, "restricted_not_permitted"),
    ("denial of substance use includes part 2", consent(permit(deny(securityLabel=[coding("v3-ActCode", "SUD")]), securityLabel=[coding("v3-ActCode", "42CFRPart2")])), replace(ASK, labels=(label("42CFRPart2"),)), "deny", "provision.provision[0]", "denied"),
    *[(f"denial of {banned} may mean {borne}", consent(deny(securityLabel=[coding("v3-ActCode", banned)])), replace(ASK, labels=(label(borne),)), "deny", "provision", "unclear_condition")
      for banned, borne in (("ETH", "42CFRPart2"), ("ETHUD", "42CFRPart2"), ("42CFRPart2", "ETH"), ("42CFRPart2", "SUD"), ("ETHUD", "SUD"), ("ETH", "OPIOIDUD"), ("MH", "BH"))],
    ("alcohol is not opioids", consent(permit(deny(securityLabel=[coding("v3-ActCode", "OPIOIDUD")]), securityLabel=[coding("v3-ActCode", "ETHUD")])), replace(ASK, labels=(label("ETHUD"),)), "permit", "provision", "permitted"),
    # nesting
    ("exception permits", consent(deny(permit(purpose=TREAT))), ASK, "permit", "provision.provision[0]", "permitted"),
    ("exception that does not apply", consent(deny(permit(purpose=RESEARCH))), ASK, "deny", "provision", "denied"),
    ("among exceptions a denial wins", consent(deny(permit(), deny())), ASK, "deny", "provision.provision[1]", "denied"),
    ("exception of an exception", consent(permit(deny(permit(actor=actor(US)), purpose=TREAT))), ASK, "permit", "provision.provision[0].provision[0]", "permitted"),
    ("third level denies", consent(permit(deny(permit(deny(action=COLLECT))))), ASK, "deny", "provision.provision[0].provision[0].provision[0]", "denied"),
    ("conditions of the outer bind the inner", consent(permit(deny(deny(), purpose=RESEARCH))), ASK, "permit", "provision", "permitted"),
    ("an unclear permit keeps the denial", consent(deny(permit(purpose=[coding(LOCAL, "p")]))), ASK, "deny", "provision", "denied"),
    ("a denial inside of an unclear permit", consent(permit(permit(deny(), purpose=[coding(LOCAL, "p")]))), ASK, "deny", "provision.provision[0].provision[0]", "denied"),
    ("a permit inside of an unclear denial does not lift the root", consent(deny(deny(permit(), purpose=[coding(LOCAL, "p")]))), ASK, "deny", "provision", "denied"),
    ("nested without type", consent(permit({"purpose": TREAT})), ASK, "deny", "provision.provision[0].type", "no_type"),
    # unknown constructs
    ("modifier on the consent", consent(permit(), modifierExtension=[{"url": "x"}]), ASK, "deny", "modifierExtension", "modifier_extension"),
    ("modifier deep inside", consent(permit(deny(purpose=RESEARCH, actor=[{"modifierExtension": [{"url": "x"}]}]))), ASK, "deny", "provision.provision[0].actor[0].modifierExtension", "modifier_extension"),
    ("implicit rules", consent(permit(), implicitRules="urn:x"), ASK, "deny", "implicitRules", "implicit_rules"),
    ("R5's decision", consent(permit(), decision="permit"), ASK, "deny", "decision", "unknown_construct"),
    ("R5's list of provisions", consent(permit()) | {"provision": [permit()]}, ASK, "deny", "provision", "malformed"),
    ("unknown key in a provision", consent(permit(expression="1")), ASK, "deny", "provision.expression", "unknown_construct"),
    ("unknown type", consent({"type": "maybe"}), ASK, "deny", "provision.type", "unknown_construct"),
    ("type without value", consent({"_type": {"extension": []}}, rule="OPTIN"), ASK, "deny", "provision._type", "unknown_construct"),
    ("empty purpose", consent(permit(purpose=[])), ASK, "deny", "provision.purpose", "malformed"),
    ("purpose of text", consent(permit(purpose="TREAT")), ASK, "deny", "provision.purpose", "malformed"),
    ("not a consent", consent(permit(), resourceType="Contract"), ASK, "deny", "resourceType", "unknown_construct"),
    ("unknown key in an actor", consent(permit(actor=ODD)), ASK, "deny", "provision.actor[0].foo", "unknown_construct"),
    ("unknown key in a nested denial's actor", consent(permit(deny(actor=[{**actor("Organization/x")[0], "foo": 1}]))), ASK, "deny", "provision.provision[0].actor[0].foo", "unknown_construct"),
    ("unknown key in data", consent(permit(deny(data=[{"meaning": "instance", "reference": {"reference": "Condition/c"}, "foo": 1}]))), ASK, "deny", "provision.provision[0].data[0].foo", "unknown_construct"),
    ("unknown key in a reference", consent(permit(deny(actor=[{"role": {}, "reference": {"reference": "Organization/x", "foo": 1}}]))), ASK, "deny", "provision.provision[0].actor[0].reference.foo", "unknown_construct"),
    ("unknown key in a period", consent(permit(period={"start": "2020", "foo": 1})), ASK, "deny", "provision.period", "malformed"),
    ("unknown key in a coding", consent(permit(purpose=[{**TREAT[0], "foo": 1}])), ASK, "deny", "provision.purpose[0].foo", "unknown_construct"),
    ("unknown key in an action's coding", consent(permit(action=[{"coding": [{**COLLECT[0]["coding"][0], "foo": 1}]}])), ASK, "deny", "provision.action[0].coding[0].foo", "unknown_construct"),
    ("unknown key in the scope", consent(permit(), scope={**concept("consentscope", "patient-privacy"), "foo": 1}), ASK, "deny", "scope.foo", "unknown_construct"),
    ("unknown key in a verification", consent(permit(), verification=[{"verified": True, "foo": 1}]), ASK, "deny", "verification[0].foo", "unknown_construct"),
    ("unknown key in a policy", consent(permit(), policy=[{"uri": "urn:x", "foo": 1}]), ASK, "deny", "policy[0].foo", "unknown_construct"),
    ("an actor's role that is a text", consent(permit(actor=[{"role": "us", "reference": {"reference": US}}])), ASK, "deny", "provision.actor[0].role", "malformed"),
    ("verified", consent(permit(), verification=[{"verified": True, "verificationDate": "2025-01-01"}]), ASK, "permit", "provision", "permitted"),
    ("not verified, permitted", consent(permit(), verification=[{"verified": True}, {"verified": False}]), ASK, "deny", "verification[1].verified", "not_verified"),
    ("not verified, opted in", consent(rule="OPTIN", verification=[{"verified": False}]), ASK, "deny", "verification[0].verified", "not_verified"),
    ("not verified, denied", consent(deny(), verification=[{"verified": False}]), ASK, "deny", "provision", "denied"),
    ("not verified, and about something else", consent(permit(purpose=RESEARCH), verification=[{"verified": False}]), ASK, "none", None, "none_applies"),
    ("what an extension holds does not matter", consent(permit(actor=[{**actor(US)[0], "extension": [{"url": "x", "foo": 1}]}])), ASK, "permit", "provision", "permitted"),
    ("plain extensions do not matter", consent(permit(extension=[{"url": "x"}]), extension=[{"url": "y"}]), ASK, "permit", "provision", "permitted"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "ask", "outcome", "provision", "reason"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_one_consent(given: dict[str, Any], ask: ConsentRequest, outcome: str, provision: str | None, reason: str) -> None:
    before = copy.deepcopy(given)
    decision = evaluate([given], ask)
    assert (decision.outcome, decision.provision, decision.reason) == (outcome, provision, reason)
    named = (None, None) if provision is None else ("c1", "7")
    assert (decision.consent_id, decision.version) == named
    assert given == before


def test_nothing_found_is_left_to_the_tenant() -> None:
    assert evaluate([], ASK) == ConsentDecision("none", reason="no_consent")


def test_restricted_data_without_any_consent_are_denied() -> None:
    assert evaluate([], replace(ASK, labels=(label("ETH"),))).reason == "restricted_not_permitted"


def test_among_consents_a_denial_wins_and_is_named() -> None:
    consents = [consent(permit(), id="a"), consent(deny(), id="z", meta={"versionId": "3"}), consent(permit(), id="b")]
    for order in (consents, consents[::-1]):
        assert evaluate(order, ASK) == ConsentDecision("deny", "z", "3", "provision", "denied")


def test_an_unreadable_consent_stops_a_readable_permit() -> None:
    assert evaluate([consent(permit()), consent(permit(), id="odd", foo=1)], ASK).consent_id == "odd"


def test_one_consent_can_cover_the_restricted_and_another_the_rest() -> None:
    consents = [consent(permit(), id="general"), consent(permit(securityLabel=[coding("v3-ActCode", "ETH")]), id="part2")]
    assert evaluate(consents, replace(ASK, labels=(label("ETH"),))).outcome == "permit"


def test_absurdly_deep_nesting_denies_and_does_not_crash() -> None:
    provision = permit()
    for _ in range(200):
        provision = permit(provision)
    assert evaluate([consent(provision)], ASK).outcome == "deny"
    deep: dict[str, Any] = {"modifierExtension": []}
    for _ in range(500):
        deep = {"extension": [deep]}
    assert evaluate([consent(permit(), **deep)], ASK).reason == "modifier_extension"


def test_an_ask_survives_being_kept() -> None:
    ask = replace(ASK, labels=(label("ETH"),), event=(ASK.at, ASK.at))
    assert ConsentRequest.from_json(ask.to_json()) == ask
    assert ConsentRequest.from_json(ASK.to_json()) == ASK


def test_what_is_no_name_of_an_element_does_not_reach_the_decision() -> None:
    assert "Zaphod" not in repr(evaluate([consent(permit(**{"Zaphod B": 1}))], ASK))
