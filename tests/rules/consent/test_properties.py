"""What must hold for every Consent, whatever it says."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fhir_writeback_dagster.rules.consent.evaluate import evaluate
from fhir_writeback_dagster.rules.consent.model import ConsentRequest

THO = "http://terminology.hl7.org/CodeSystem/"
ASK = ConsentRequest(
    purpose="TREAT",
    actor="Organization/us",
    resource_type="Observation",
    codings=(("http://loinc.org", "8867-4"),),
    labels=(),
    at=datetime(2026, 6, 15, tzinfo=UTC),
)
RANK = {"deny": 0, "none": 1, "permit": 2}


def coded(*choices: str) -> st.SearchStrategy[list[dict[str, str]]]:
    coding = st.builds(lambda c: {"system": c.rsplit("|", 1)[0], "code": c.rsplit("|", 1)[1]}, st.sampled_from(choices))
    return st.lists(coding, min_size=1, max_size=2)


CONDITIONS: dict[str, st.SearchStrategy[Any]] = {
    "period": st.sampled_from([{"start": "2020"}, {"end": "2020"}, {"start": "2026-06-15"}]),
    "purpose": coded(f"{THO}v3-ActReason|TREAT", f"{THO}v3-ActReason|HRESCH", "urn:local|x"),
    "actor": st.sampled_from(["Organization/us", "Organization/x", "Group/g"]).map(
        lambda name: [{"role": {"text": "r"}, "reference": {"reference": name}}]
    ),
    "action": coded(f"{THO}consentaction|collect", f"{THO}consentaction|access", "urn:local|x").map(
        lambda codings: [{"coding": codings}]
    ),
    "class": coded("http://hl7.org/fhir/resource-types|Observation", "http://hl7.org/fhir/resource-types|Condition"),
    "securityLabel": coded(f"{THO}v3-Confidentiality|N", f"{THO}v3-Confidentiality|R", f"{THO}v3-ActCode|ETH"),
}
conditions = st.fixed_dictionaries({}, optional=CONDITIONS)


def provisions(types: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    leaf = st.builds(lambda c, t: {"type": t, **c}, conditions, st.sampled_from(types))
    return st.recursive(
        leaf,
        lambda inner: st.builds(lambda p, nested: {**p, "provision": nested}, leaf, st.lists(inner, min_size=1, max_size=3)),
        max_leaves=6,
    )


def consent(provision: dict[str, Any] | None, rule: str | None, number: int) -> dict[str, Any]:
    made: dict[str, Any] = {
        "resourceType": "Consent",
        "id": f"c{number}",
        "status": "active",
        "scope": {"coding": [{"system": f"{THO}consentscope", "code": "patient-privacy"}]},
    }
    if provision is not None:
        made["provision"] = provision
    if rule:
        made["policyRule"] = {"coding": [{"system": f"{THO}v3-ActCode", "code": rule}]}
    return made


consents = st.builds(
    consent,
    st.none() | provisions(["permit", "deny"]),
    st.sampled_from([None, "OPTIN", "OPTOUT"]),
    st.integers(0, 9),
)
denials = provisions(["deny"])


def places(provision: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield provision
    for nested in provision.get("provision", ()):
        yield from places(nested)


@given(st.lists(consents, max_size=3), consents | st.builds(consent, denials, st.none(), st.just(99)))
def test_a_further_consent_never_lifts_a_denial(held: list[dict[str, Any]], further: dict[str, Any]) -> None:
    if evaluate(held, ASK).outcome == "deny":
        assert evaluate([*held, further], ASK).outcome == "deny"


@given(
    st.builds(consent, provisions(["permit", "deny"]), st.sampled_from([None, "OPTIN", "OPTOUT"]), st.just(1)),
    denials,
    st.data(),
)
def test_a_further_exception_that_denies_never_opens_anything(
    held: dict[str, Any], denial: dict[str, Any], data: st.DataObject
) -> None:
    more = copy.deepcopy(held)
    place = data.draw(st.sampled_from(list(places(more["provision"]))))
    place["provision"] = [*place.get("provision", ()), denial]
    assert RANK[evaluate([more], ASK).outcome] <= RANK[evaluate([held], ASK).outcome]


@given(st.builds(consent, provisions(["permit", "deny"]), st.none(), st.just(1)), st.data())
def test_a_modifier_anywhere_denies(held: dict[str, Any], data: st.DataObject) -> None:
    place = data.draw(st.sampled_from([held, *places(held["provision"])]))
    place["modifierExtension"] = [{"url": "urn:x"}]
    assert evaluate([held], ASK).outcome == "deny"


@given(st.lists(consents, max_size=4), st.randoms())
def test_the_order_of_consents_does_not_matter(held: list[dict[str, Any]], random: Any) -> None:
    numbered = [one | {"id": f"c{n}"} for n, one in enumerate(held)]
    shuffled = list(numbered)
    random.shuffle(shuffled)
    assert evaluate(shuffled, ASK) == evaluate(numbered, ASK)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["permit", "deny", "2020-13", "9999"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "provision", "coding", "system", "code", "start", "end"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    consents,
    st.sampled_from(["scope", "category", "policyRule", "provision", "status", "meta", "id", "provision.period"]),
    junk,
)
def test_junk_never_crashes_and_a_junk_provision_never_permits_more(held: dict[str, Any], key: str, value: object) -> None:
    odd = {**held, "provision": {"type": "permit", "period": value}} if "." in key else {**held, key: value}
    assert evaluate([odd], ASK).outcome in RANK
