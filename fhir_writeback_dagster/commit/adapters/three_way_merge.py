"""An update looked at from three sides: what our last write left (base), what stands there now (theirs), what we want (ours).

Compared element by element at the top level of the resource. What only we changed is written; what only others changed stays,
also where our payload still says the old; what both changed goes to a person. So does everything where others made another
fact of it (another status, code, time or subject): our value then belongs to something that is not there any more.
A retraction says of the whole resource that it is wrong, so any change by others stands against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fhir_writeback_dagster.commit.protocol.answer import dicts
from fhir_writeback_dagster.commit.protocol.model import Link
from fhir_writeback_dagster.rules.fhir.content import MEANING, as_correction, laid_over
from fhir_writeback_dagster.rules.fhir.natural_key import natural_key
from fhir_writeback_dagster.rules.fhir.resource import Resource

UNKNOWN = "*"
"""In place of the elements that others changed: our base is shredded, so nobody can tell."""

_FINISHED = frozenset({"final", "amended", "corrected"})
_VALUE = ("value", "component", "dataAbsentReason")
_BOOKKEEPING = frozenset({"meta", "text"})


@dataclass(frozen=True, slots=True)
class Merged:
    """``wanted`` is what stands there with our changes laid over it; ``theirs`` are the elements that others changed since our
    first write, ``conflicts`` those of them that stand against ours (empty: it may be sent).
    """

    wanted: Resource
    theirs: frozenset[str]
    conflicts: tuple[str, ...]


def merge(link: Link, current: Resource, payload: Resource) -> Merged:
    """What to make of ``current`` so that it says what ``payload`` says, without touching what others changed."""
    theirs = _changed(link.base, current)
    if in_error(payload):
        return Merged(_retracted(current, payload), theirs, tuple(sorted(theirs)))
    before = link.previous or {}
    kept = {name for name in theirs if name in before and before[name] == payload.get(name)}
    wanted = _corrected(current, _without(before, kept), _without(payload, kept))
    ours = {name for name in {*wanted, *current} - _BOOKKEEPING if wanted.get(name) != current.get(name)}
    return Merged(wanted, theirs, _conflicts(link.base, current, ours, theirs))


def left_by_us(base: Resource | None, standing: Resource, theirs: frozenset[str]) -> Resource:
    """The next base: ``standing`` without what others changed, which so stays theirs in the next comparison too."""
    before = base or {}
    left = {name: value for name, value in standing.items() if name not in theirs}
    return left | {name: before[name] for name in theirs & before.keys()}


def in_error(resource: Resource) -> bool:
    """Retracted, as each type of resource says it."""
    verification = resource.get("verificationStatus")
    codings = dicts(verification.get("coding")) if isinstance(verification, dict) else []
    return resource.get("status") == "entered-in-error" or any(one.get("code") == "entered-in-error" for one in codings)


def _changed(base: Resource | None, current: Resource) -> frozenset[str]:
    if base is None:
        return frozenset({UNKNOWN})
    return frozenset(name for name in {*base, *current} - _BOOKKEEPING if base.get(name) != current.get(name))


def _conflicts(base: Resource | None, current: Resource, ours: set[str], theirs: frozenset[str]) -> tuple[str, ...]:
    another_fact = base is not None and natural_key(base) != natural_key(current)
    if another_fact or UNKNOWN in theirs or theirs & MEANING:
        return tuple(sorted(theirs)) if ours else ()
    touched = {_group(name) for name in ours}
    return tuple(sorted(name for name in theirs if _group(name) in touched))


def _group(name: str) -> str:
    """A value, its parts, and why there is none are one statement."""
    return "value" if name.startswith(_VALUE) else name


def _without(resource: Resource, names: set[str]) -> Resource:
    return {name: value for name, value in resource.items() if name not in names}


def _retracted(current: Resource, payload: Resource) -> Resource:
    """The smallest that retracts it; a clinical status next to a verification in error is forbidden (R4: con-5, ait-2)."""
    if "verificationStatus" in payload:
        return {**_without(current, {"clinicalStatus"}), "verificationStatus": payload["verificationStatus"]}
    return {**current, "status": payload["status"]}


def _corrected(current: Resource, previous: Resource, payload: Resource) -> Resource:
    """``payload`` laid over ``current``; an Observation whose value changes becomes ``corrected``.

    A finished Observation otherwise keeps the status that it has in the chart: ours says ``final`` for ever, and the chart's
    ``corrected`` of an earlier change must not be taken back.
    """
    finished = payload.get("status") in _FINISHED and current.get("status") in _FINISHED
    if current["resourceType"] != "Observation" or not finished:
        return laid_over(current, payload, previous)
    wanted = laid_over(current, {**payload, "status": current["status"]}, previous)
    return wanted if _value_of(wanted) == _value_of(current) else laid_over(current, as_correction(payload), previous)


def _value_of(observation: Resource) -> dict[str, Any]:
    return {name: value for name, value in observation.items() if name.startswith(_VALUE)}
