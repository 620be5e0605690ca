"""May this be written, as the patient's R4 Consents say? Pure, and closed by default: what is not understood denies.

One consent is read as R4 means it: ``policyRule`` is the base, the root provision narrows or reverses it, and nested
provisions are exceptions of the one above. Among exceptions that apply, and among consents, a denial wins. A condition may
turn out *unclear* (a code of a system that we do not know, a group that may hold our organisation): an unclear denial applies,
an unclear permit does not. What follows from which code is told in ``docs/consent.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fhir_writeback_dagster.rules.consent.codes import (
    ACT_CODE,
    CONSENT_CATEGORY,
    CONSENT_SCOPE,
    EMERGENCY_ONLY,
    EMERGENCY_PURPOSES,
    IDLE_STATUSES,
    NOT_ABOUT_DATA,
    POLICY_RULES,
    RESTRICTED,
    SCOPES,
    covering,
    purposes_of,
)
from fhir_writeback_dagster.rules.consent.conditions import applies, in_force
from fhir_writeback_dagster.rules.consent.model import ConsentDecision, ConsentRequest, Effect
from fhir_writeback_dagster.rules.consent.shape import codings, problem_of
from fhir_writeback_dagster.rules.fhir.codes import SystemCode

MOST_UNPLACED = 20
"""So many consents whose patient nobody can tell are looked into; with more of them every write is for a person to look at."""


@dataclass(frozen=True, slots=True)
class _Ruling:
    """What one provision comes to; ``labels`` are the security labels that the way to a permit names."""

    effect: Effect
    path: str
    reason: str
    labels: frozenset[str] = frozenset()


def evaluate(
    consents: Sequence[Mapping[str, Any]], ask: ConsentRequest, unplaced: Sequence[Mapping[str, Any]] = ()
) -> ConsentDecision:
    """Put all consents of one patient together: a denial wins, then a permit; restricted data need a permit that names them.

    :param unplaced: consents of patients whom nobody can tell: what they permit is nobody's, what they deny may be this one's.
    """
    decision = _together(consents, ask)
    if decision.outcome == "deny":
        return decision
    return replace(decision, unplaced=len(unplaced) > MOST_UNPLACED or any(_denies(consent, ask) for consent in unplaced))


def _denies(consent: Mapping[str, Any], ask: ConsentRequest) -> bool:
    ruling = _rule(consent, ask)
    return ruling is not None and ruling.effect == "deny"


def _together(consents: Sequence[Mapping[str, Any]], ask: ConsentRequest) -> ConsentDecision:
    denied: list[tuple[str, Mapping[str, Any], _Ruling]] = []
    permitted: list[tuple[str, Mapping[str, Any], _Ruling]] = []
    for consent in consents:
        ruling = _rule(consent, ask)
        if ruling is not None:
            (denied if ruling.effect == "deny" else permitted).append((str(consent.get("id")), consent, ruling))
    if denied:
        return _decision(*min(denied, key=_by_id))
    named = frozenset[str]().union(*(ruling.labels for _, _, ruling in permitted))
    restricted = (code for system, code in ask.labels if system == ACT_CODE and code in RESTRICTED)
    if any(named.isdisjoint(covering(code)) for code in restricted):
        return ConsentDecision("deny", reason="restricted_not_permitted")
    if permitted:
        return _decision(*min(permitted, key=_by_id))
    return ConsentDecision("none", reason="none_applies" if consents else "no_consent")


def _by_id(found: tuple[str, Mapping[str, Any], _Ruling]) -> str:
    return found[0]


def _decision(consent_id: str, consent: Mapping[str, Any], ruling: _Ruling) -> ConsentDecision:
    meta = consent.get("meta")
    version = meta.get("versionId") if isinstance(meta, dict) else None
    return ConsentDecision(ruling.effect, consent_id, version, ruling.path, ruling.reason)


def _rule(consent: Mapping[str, Any], ask: ConsentRequest) -> _Ruling | None:
    """What one consent says; None where it says nothing about this write."""
    if consent.get("resourceType") == "Consent" and consent.get("status") in IDLE_STATUSES:
        return None
    problem = problem_of(consent)
    if problem is not None:
        return _Ruling("deny", problem.path, problem.code)
    scopes = {code for system, code in codings(consent["scope"]) if system == CONSENT_SCOPE}
    if not scopes or scopes - SCOPES.keys():
        return _Ruling("deny", "scope", "unknown_scope")
    if not any(_concerns(scope, ask) for scope in scopes):
        return None
    categories = [set(codings(category)) for category in consent.get("category", ())]
    apart = [bool(named) and named <= _NOT_ABOUT_DATA for named in categories]
    if categories and all(apart):
        return None
    if any((CONSENT_CATEGORY, EMERGENCY_ONLY) in named for named in categories) and ask.purpose not in EMERGENCY_PURPOSES:
        return _Ruling("deny", "category", "emergency_only")
    ruling = _base_and_root(consent, ask)
    if ruling is None or ruling.effect == "deny":
        return ruling
    if not _NOT_ABOUT_DATA.isdisjoint(set().union(*categories)):
        # A notice or directive beside something else: what it forbids counts, what it permits may be about another thing.
        return None if _root_effect(consent) == "permit" else _Ruling("deny", "category", "unclear_category")
    return _not_verified(consent) or ruling


_NOT_ABOUT_DATA = frozenset((CONSENT_CATEGORY, code) for code in NOT_ABOUT_DATA)


def _not_verified(consent: Mapping[str, Any]) -> _Ruling | None:
    """Somebody has written down that the patient has not confirmed it: a denial counts all the same, a permit does not."""
    for number, verification in enumerate(consent.get("verification", ())):
        if verification.get("verified") is not True:
            return _Ruling("deny", f"verification[{number}].verified", "not_verified")
    return None


def _root_effect(consent: Mapping[str, Any]) -> Effect | None:
    return (consent.get("provision") or {}).get("type") or _base(consent.get("policyRule"))


def _concerns(scope: str, ask: ConsentRequest) -> bool:
    return SCOPES[scope] or (scope == "research" and "HRESCH" in purposes_of(ask.purpose))


def _base_and_root(consent: Mapping[str, Any], ask: ConsentRequest) -> _Ruling | None:
    base = _base(consent.get("policyRule"))
    root = consent.get("provision")
    if root is None:
        if base is None and "policyRule" in consent:
            return _Ruling("deny", "policyRule", "unknown_policy_rule")
        return None if base is None else _Ruling(base, "policyRule", "policy_rule")
    effect: Effect | None = root.get("type") or base
    if effect is None:
        return _Ruling("deny", "provision", "unknown_policy_rule" if "policyRule" in consent else "no_type")
    ruling = _provision(root, "provision", effect, ask, frozenset())
    if ruling is not None:
        return ruling
    # The root does not speak of this write: what stands around it does. A base of opt-in holds only beside a root that bans
    # something else; beside a root that permits something else it would widen what the patient spelt out.
    if applies(root, effect, ask) is None and effect == "permit":
        return _Ruling("deny", "provision", "unclear_condition")
    if base == "deny" or (base == "permit" and effect == "deny" and in_force(root, ask) is True):
        return _Ruling(base, "policyRule", "policy_rule")
    return None


def _provision(
    provision: Mapping[str, Any], path: str, effect: Effect, ask: ConsentRequest, labels: frozenset[str]
) -> _Ruling | None:
    """What a provision and its exceptions come to; None if it does not apply, or is unclear and would permit."""
    holds = applies(provision, effect, ask)
    if holds is False:
        return None
    named = labels | {code for system, code in _coded(provision.get("securityLabel", ())) if system == ACT_CODE}
    exceptions = [
        ruling
        for number, nested in enumerate(provision.get("provision", ()))
        if (ruling := _provision(nested, f"{path}.provision[{number}]", nested["type"], ask, named)) is not None
    ]
    denials = [ruling for ruling in exceptions if ruling.effect == "deny"]
    if denials:
        return denials[0]
    if exceptions:
        return exceptions[0] if holds else None
    if effect == "deny":
        return _Ruling("deny", path, "denied" if holds else "unclear_condition")
    return _Ruling("permit", path, "permitted", named) if holds else None


def _base(policy_rule: Mapping[str, Any] | None) -> Effect | None:
    if policy_rule is None:
        return None
    effects = {POLICY_RULES.get(code) for system, code in codings(policy_rule) if system == ACT_CODE}
    return "permit" if effects == {"permit"} else "deny" if effects == {"deny"} else None


def _coded(items: Iterable[Mapping[str, Any]]) -> Iterable[SystemCode]:
    return ((str(item.get("system", "")), str(item.get("code", ""))) for item in items)
