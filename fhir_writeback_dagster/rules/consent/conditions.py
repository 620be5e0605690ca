"""Does a provision speak about this write? Every condition answers yes, no, or None for *unclear*."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fhir_writeback_dagster.rules.consent.codes import (
    ACT_CODE,
    ACT_REASON,
    ACTIONS,
    BANNING_ACTIONS,
    CONFIDENTIALITY,
    CONFIDENTIALITY_RANK,
    CONSENT_ACTION,
    DEFAULT_RANK,
    RESOURCE_TYPES,
    RESTRICTED,
    WRITE_ACTIONS,
    covering,
    hit_by,
    labels_of,
    purposes_of,
)
from fhir_writeback_dagster.rules.consent.model import Effect
from fhir_writeback_dagster.rules.consent.shape import Span, codings, span_of
from fhir_writeback_dagster.rules.fhir.codes import SystemCode
from fhir_writeback_dagster.rules.fhir.references import literal, same

if TYPE_CHECKING:
    from fhir_writeback_dagster.rules.consent.model import ConsentRequest

Applies = bool | None

#: Referenced types that may stand for many: our organisation can be one of them.
_COLLECTIVES = frozenset({"Group", "CareTeam", "PractitionerRole", "HealthcareService", "OrganizationAffiliation"})


def applies(provision: Mapping[str, Any], effect: Effect, ask: ConsentRequest) -> Applies:
    """All conditions of the provision together: one no is a no, else one unclear is unclear."""
    answers = [
        condition(provision, effect, ask)
        for condition in (_period, _data_period, _actor, _action, _purpose, _class, _code, _label, _data)
    ]
    return False if False in answers else None if None in answers else True


def in_force(provision: Mapping[str, Any], ask: ConsentRequest) -> Applies:
    """The provision's period holds the moment of the question, or it has none."""
    return (span_of(provision.get("period", {}), ask.zone) or Span()).holds(ask.at, ask.at)


def _any(answers: Iterable[Applies]) -> Applies:
    found = list(answers)
    return True if True in found else None if None in found else False


def _period(provision: Mapping[str, Any], _effect: Effect, ask: ConsentRequest) -> Applies:
    return in_force(provision, ask)


def _data_period(provision: Mapping[str, Any], _effect: Effect, ask: ConsentRequest) -> Applies:
    if "dataPeriod" not in provision:
        return True
    if ask.event is None:
        return None
    return (span_of(provision["dataPeriod"], ask.zone) or Span()).holds(*ask.event)


def _actor(provision: Mapping[str, Any], _effect: Effect, ask: ConsentRequest) -> Applies:
    return _any(_is_us(actor, ask) for actor in provision["actor"]) if "actor" in provision else True


def _is_us(actor: Mapping[str, Any], ask: ConsentRequest) -> Applies:
    named = literal(actor.get("reference"))
    if named is None or ask.actor is None:
        return None  # named by identifier or words only, or nobody told us our own name
    # The same id under another base may be the same organisation; a practitioner never is, a group may hold it.
    ours = same(actor["reference"]["reference"], ask.actor)
    return None if ours is False and named.resource_type in _COLLECTIVES else ours


def _action(provision: Mapping[str, Any], effect: Effect, _ask: ConsentRequest) -> Applies:
    if "action" not in provision:
        return True
    ours = BANNING_ACTIONS if effect == "deny" else WRITE_ACTIONS
    named = [coding for concept in provision["action"] for coding in _or_unclear(codings(concept))]
    return _any((code in ours) if system == CONSENT_ACTION and code in ACTIONS else None for system, code in named)


def _purpose(provision: Mapping[str, Any], _effect: Effect, ask: ConsentRequest) -> Applies:
    if "purpose" not in provision:
        return True
    ours = purposes_of(ask.purpose)
    return _any((code in ours) if system == ACT_REASON and code else None for system, code in _coded(provision["purpose"]))


def _class(provision: Mapping[str, Any], _effect: Effect, ask: ConsentRequest) -> Applies:
    if "class" not in provision:
        return True
    return _any(
        (code == ask.resource_type) if system == RESOURCE_TYPES and code else None for system, code in _coded(provision["class"])
    )


def _code(provision: Mapping[str, Any], _effect: Effect, ask: ConsentRequest) -> Applies:
    """R4: if this code is found in an instance, then the rule applies; one that is told in words cannot be looked into."""
    if "code" not in provision:
        return True
    named = [coding for concept in provision["code"] for coding in _or_unclear(codings(concept))]
    absent = False if ask.coded and ask.codings else None
    return _any((coding in ask.codings or absent) if all(coding) else None for coding in named)


def _label(provision: Mapping[str, Any], effect: Effect, ask: ConsentRequest) -> Applies:
    """Confidentiality is a level, other labels are names.

    A permit up to a level covers what is less confidential (R4, Consent.provision.securityLabel); a ban on a level covers what
    is more confidential: read the same way round, a ban on restricted data would ban all data.
    """
    if "securityLabel" not in provision:
        return True
    answers: list[Applies] = []
    levels: list[int] = []
    for system, code in _coded(provision["securityLabel"]):
        if system == CONFIDENTIALITY and code in CONFIDENTIALITY_RANK:
            levels.append(CONFIDENTIALITY_RANK[code])
        else:
            answers.append(_bears(system, code, effect, ask) if system and code and system != CONFIDENTIALITY else None)
    if effect == "deny":
        return _any([*answers, *(_rank(ask) >= level for level in levels)])
    allowed: Applies = not levels or _rank(ask) <= max(levels)
    return False if allowed is False else _any(answers) if answers else allowed


def _bears(system: str, code: str, effect: Effect, ask: ConsentRequest) -> Applies:
    borne = [value for own, value in ask.labels if own == system]
    if system != ACT_CODE:
        return code in borne
    if effect == "deny":
        return _any(hit_by(code, value) for value in borne)
    return any(code in labels_of(value) or (value in RESTRICTED and code in covering(value)) for value in borne)


def _rank(ask: ConsentRequest) -> int:
    ranks = [
        CONFIDENTIALITY_RANK.get(code, max(CONFIDENTIALITY_RANK.values()))
        for system, code in ask.labels
        if system == CONFIDENTIALITY
    ]
    return max(ranks, default=DEFAULT_RANK)


def _data(provision: Mapping[str, Any], _effect: Effect, ask: ConsentRequest) -> Applies:
    """Particular data: another type's instance is not what we write; what else a reference reaches we cannot see."""
    return _any(_is_it(data, ask) for data in provision["data"]) if "data" in provision else True


def _is_it(data: Mapping[str, Any], ask: ConsentRequest) -> Applies:
    named = literal(data.get("reference"))
    if data.get("meaning") != "instance" or named is None:
        return None
    return None if named.resource_type == ask.resource_type else False


def _or_unclear(found: Iterable[SystemCode]) -> list[SystemCode]:
    return list(found) or [("", "")]  # a concept of words only


def _coded(items: Iterable[Mapping[str, Any]]) -> list[SystemCode]:
    return [(str(item.get("system") or ""), str(item.get("code") or "")) for item in items]
