"""Is this Consent one that the evaluator can read as a whole? Anything else in it might change its meaning, and so denies.

Checked by hand and not by a schema: the answer must name the path and a code, and `modifierExtension` is looked for everywhere,
also where a schema would allow it (R4, extensibility: an application that does not know a modifier must not process the element).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from fhir_writeback_dagster.rules.fhir.codes import SystemCode
from fhir_writeback_dagster.rules.fhir.r4 import definitions
from fhir_writeback_dagster.rules.fhir.time import instant

#: R4's Consent: JSON property -> type; ``*`` is a list, a small letter a primitive. Types without an entry are R4's data types.
_ELEMENTS: Mapping[str, Mapping[str, str]] = {
    "Consent": {
        "resourceType": "code", "id": "id", "meta": "Meta", "language": "code", "text": "", "contained": "", "extension": "",
        "identifier": "Identifier*", "status": "code", "scope": "CodeableConcept", "category": "CodeableConcept*",
        "patient": "Reference", "dateTime": "dateTime", "performer": "Reference*", "organization": "Reference*",
        "sourceAttachment": "Attachment", "sourceReference": "Reference", "policy": "Consent.policy*",
        "policyRule": "CodeableConcept", "verification": "Consent.verification*", "provision": "Consent.provision",
    },
    "Consent.policy": {"id": "string", "extension": "", "authority": "uri", "uri": "uri"},
    "Consent.verification": {
        "id": "string", "extension": "", "verified": "boolean", "verifiedWith": "Reference", "verificationDate": "dateTime",
    },
    "Consent.provision": {
        "id": "string", "extension": "", "type": "code", "period": "Period", "actor": "Consent.provision.actor*",
        "action": "CodeableConcept*", "securityLabel": "Coding*", "purpose": "Coding*", "class": "Coding*",
        "code": "CodeableConcept*", "dataPeriod": "Period", "data": "Consent.provision.data*", "provision": "Consent.provision*",
    },
    "Consent.provision.actor": {"id": "string", "extension": "", "role": "CodeableConcept", "reference": "Reference"},
    "Consent.provision.data": {"id": "string", "extension": "", "meaning": "code", "reference": "Reference"},
}  # fmt: skip
_LISTS = ("actor", "action", "securityLabel", "purpose", "class", "code", "data", "provision")
_DEEPEST = 16


@dataclass(frozen=True, slots=True)
class ConsentProblem:
    """Where a consent cannot be read, and the code of why."""

    path: str
    code: str


def problem_of(consent: Mapping[str, Any]) -> ConsentProblem | None:
    """The first thing that makes an active consent unreadable; None if it can be evaluated."""
    return next(_problems(consent), None)


def _problems(consent: Mapping[str, Any]) -> Iterator[ConsentProblem]:
    if _has_modifier(consent):
        yield ConsentProblem(_modifier_path(consent) or "", "modifier_extension")
    if "implicitRules" in consent:
        yield ConsentProblem("implicitRules", "implicit_rules")
    if consent.get("resourceType") != "Consent":
        yield ConsentProblem("resourceType", "unknown_construct")
    if consent.get("status") != "active":  # the evaluator has put aside every other status that R4 knows
        yield ConsentProblem("status", "unknown_construct")
    yield from _unknown(consent, _elements("Consent"), "")
    for name in ("scope", "policyRule", "provision"):
        if not isinstance(consent.get(name, {}), dict) or (name == "scope" and name not in consent):
            yield ConsentProblem(name, "malformed")
    if not _dicts(consent.get("category", [{}])):
        yield ConsentProblem("category", "malformed")
    if "provision" in consent:
        yield from _provision(consent["provision"], "provision", 0)
    yield from _within(consent, "Consent", "", 0)


def _provision(provision: Mapping[str, Any], path: str, depth: int) -> Iterator[ConsentProblem]:
    if depth > _DEEPEST:
        yield ConsentProblem(path, "too_deep")
        return
    yield from _unknown(provision, _elements("Consent.provision"), f"{path}.")
    kind = provision.get("type")
    if kind not in ("permit", "deny") and (depth > 0 or "type" in provision):
        yield ConsentProblem(f"{path}.type", "no_type" if kind is None else "unknown_construct")
    for name in ("period", "dataPeriod"):
        if name in provision and span_of(provision[name]) is None:
            yield ConsentProblem(f"{path}.{name}", "malformed")
    for name in _LISTS:
        if name in provision and not _dicts(provision[name]):
            yield ConsentProblem(f"{path}.{name}", "malformed")
            return
    for number, nested in enumerate(provision.get("provision", ())):
        yield from _provision(nested, f"{path}.provision[{number}]", depth + 1)


@cache
def _elements(structure: str) -> Mapping[str, str]:
    """JSON property -> type of ``structure``, as in :data:`_ELEMENTS`; an extension may hold anything: it changes nothing."""
    if structure in _ELEMENTS:
        return _ELEMENTS[structure]
    found = definitions().structures[structure].elements
    return {
        key: "" if kind == "Extension" else f"{kind}{'*' * element.many}"
        for element in found
        for key, kind in element.json_names().items()
    }


def _within(element: Mapping[str, Any], structure: str, prefix: str, depth: int) -> Iterator[ConsentProblem]:
    """What is wrong below ``element`` at any depth: another property or another shape than R4 has there."""
    if depth > 2 * _DEEPEST:
        yield ConsentProblem(prefix.rstrip("."), "too_deep")
        return
    elements = _elements(structure)
    for name, value in element.items():
        kind = elements.get(name, "")
        if not kind:  # its own element has told of what is unknown, and an extension or a narrative may be as it likes
            continue
        parts = [(f"{prefix}{name}", value)]
        if kind[-1] == "*":
            if not isinstance(value, list) or not value:
                yield ConsentProblem(f"{prefix}{name}", "malformed")
                continue
            kind, parts = kind[:-1], [(f"{prefix}{name}[{number}]", part) for number, part in enumerate(value)]
        for path, part in parts:
            if kind[0].islower():
                if isinstance(part, dict | list):
                    yield ConsentProblem(path, "malformed")
            elif not isinstance(part, dict):
                yield ConsentProblem(path, "malformed")
            else:
                yield from _unknown(part, _elements(kind), f"{path}.")
                yield from _within(part, kind, f"{path}.", depth + 1)


def _unknown(element: Mapping[str, Any], known: Mapping[str, str], prefix: str) -> Iterator[ConsentProblem]:
    for key in sorted(map(str, element)):
        # `_type` alone is a primitive without a value: its extension says why, and that is not for us to read.
        if key not in known and not (key.startswith("_") and key[1:] in known and key[1:] in element):
            yield ConsentProblem(f"{prefix}{key}" if key.isidentifier() else prefix.rstrip("."), "unknown_construct")


def _dicts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _has_modifier(consent: Mapping[str, Any]) -> bool:
    """Is there a ``modifierExtension`` anywhere? Most have none: this only looks, and the path is found afterwards."""
    ahead: list[Any] = [consent]
    while ahead:
        element = ahead.pop()
        if isinstance(element, dict):
            if "modifierExtension" in element:
                return True
            ahead += element.values()
        elif isinstance(element, list):
            ahead += element
    return False


def _modifier_path(element: object, path: str = "", depth: int = 0) -> str | None:
    """Path of the first ``modifierExtension`` below ``element``, or of where it goes absurdly deep."""
    if depth > 64:
        return path
    if isinstance(element, dict):
        if "modifierExtension" in element:
            return f"{path}.modifierExtension".lstrip(".")
        children = [(f"{path}.{key}", child) for key, child in element.items()]
    elif isinstance(element, list):
        children = [(f"{path}[{number}]", child) for number, child in enumerate(element)]
    else:
        return None
    found = (_modifier_path(child, place, depth + 1) for place, child in children)
    return next((place for place in found if place is not None), None)


def codings(concept: object) -> Iterator[SystemCode]:
    """(system, code) of each coding of a CodeableConcept; "" for what is not stated."""
    listed = concept.get("coding") if isinstance(concept, dict) else None
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, dict):
            yield str(item.get("system") or ""), str(item.get("code") or "")


class Span(NamedTuple):
    """An R4 Period as instants: the earliest and the latest that its start, and its end, can mean; None: it is open there.

    A date names no zone. Unless it is told which one is meant, it may begin as early as in UTC+14 and end as late as in UTC-12: a
    denial's day is 50 hours long, and a permit's days surely hold only while it is one of them everywhere.
    """

    start: tuple[datetime, datetime] | None = None
    end: tuple[datetime, datetime] | None = None

    def holds(self, first: datetime, last: datetime) -> bool | None:
        """Does it hold all that lies between these instants? None: not for certain, or not all."""
        if (self.start and last < self.start[0]) or (self.end and first > self.end[1]):
            return False
        return True if (not self.start or first >= self.start[1]) and (not self.end or last <= self.end[0]) else None


def span_of(period: object, zone: str | None = None) -> Span | None:
    """The instants of an R4 Period, its dates those of ``zone`` (an IANA name), or of any zone; None if it is not one."""
    if not isinstance(period, dict) or not period.keys() <= {"id", "extension", "start", "end"}:
        return None
    try:
        start = bounds(period["start"], zone, last=False) if "start" in period else None
        end = bounds(period["end"], zone, last=True) if "end" in period else None
    except ValueError:
        return None
    return None if start and end and end[1] < start[0] else Span(start, end)


_EAST, _WEST = timedelta(hours=14), timedelta(hours=12)
"""How far the zones in use lie from UTC."""


def bounds(value: object, zone: str | None, *, last: bool) -> tuple[datetime, datetime]:
    """The earliest and the latest instant that the first moment of an R4 dateTime can be, or its ``last`` one.

    :raises ValueError: it is not one.
    """
    utc = _instants(value)[last]
    if isinstance(value, str) and "T" in value:
        return utc, utc
    if zone is not None:
        there = _moved(utc, -(utc.replace(tzinfo=ZoneInfo(zone)).utcoffset() or timedelta()))
        return there, there
    return _moved(utc, -_EAST), _moved(utc, _WEST)


def _moved(instant: datetime, by: timedelta) -> datetime:
    try:
        return instant + by
    except OverflowError:  # before the year 1, or after 9999: for ever
        return instant


def _instants(value: object) -> tuple[datetime, datetime]:
    """First and last instant that an R4 dateTime can mean in UTC.

    :raises ValueError: it is not one.
    """
    if not isinstance(value, str):
        raise ValueError("not a text")  # noqa: TRY004 - one kind of error for what is no R4 dateTime
    if "T" in value:
        point = instant(value)
        if point is None:
            raise ValueError("not an R4 instant")
        return point[0], point[0]
    parts = [int(part) for part in value.split("-")]
    year, month, day = (*parts, 1, 1)[:3]
    start = datetime(year, month, day, tzinfo=UTC)
    if len(parts) > 3 or [len(part) for part in value.split("-")] != [4, 2, 2][: len(parts)]:
        raise ValueError("not an R4 date")
    try:
        if len(parts) == 1:
            following = start.replace(year=year + 1)
        elif len(parts) == 2:
            following = start.replace(year=year + month // 12, month=month % 12 + 1)
        else:
            following = start + timedelta(days=1)
    except (OverflowError, ValueError):  # 9999-12-31, as many write "for ever"
        return start, datetime.max.replace(tzinfo=UTC)
    return start, following - timedelta(microseconds=1)
