"""What a resource says: whether two say the same clinically, and how ours is laid over the chart's.

All pure. Servers add to what they store (ids, meta, narrative, displays, performers) and write instants and decimals their own
way; none of that is a difference. A status, a value, a unit, a code, a time, or an element that changes the meaning is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

from fhir_writeback_dagster.rules.fhir.codes import concept_key, fold, tokens
from fhir_writeback_dagster.rules.fhir.json_patch import difference
from fhir_writeback_dagster.rules.fhir.r4 import definitions, types_of
from fhir_writeback_dagster.rules.fhir.references import literal
from fhir_writeback_dagster.rules.fhir.resource import ReadResource
from fhir_writeback_dagster.rules.fhir.time import same_time

__all__ = ["MEANING", "Loss", "as_correction", "difference", "laid_over", "lost", "same_content"]


#: Say where and how a resource is kept, not what it says.
_HOUSEKEEPING = frozenset({"resourceType", "id", "meta", "implicitRules", "language", "text", "identifier"})
#: What a server or another person may add to ours without changing what it says: who, when recorded, links, remarks.
_ADDED = _HOUSEKEEPING | frozenset(
    """asserter authenticator author basedOn context custodian date encounter extension informationSource interpretation
    issued note partOf performer recordedDate recorder referenceRange reportedBoolean requester""".split()
)
#: The same inside an element.
_ADDED_INSIDE = frozenset(
    """assigner creation display extension facilityType hash id identifier language practiceSetting related size
    sourcePatientInfo text title type url userSelected version""".split()
)
#: Lists that others may add to.
_OPEN_LISTS = frozenset({"category", "interpretation", "note", "performer"})
MEANING = frozenset(
    """clinicalStatus docStatus doNotPerform implicitRules intent isSubpotent modifierExtension patient status subject
    verificationStatus""".split()
)
"""Without them, or with others, the rest tells of something else: the modifier elements of the written kinds, and the patient."""
_FINISHED = frozenset({"final", "amended", "corrected"})


def same_content(ours: ReadResource, theirs: ReadResource) -> bool:
    """Does the chart's resource say what our payload says, no less and nothing else?

    Not symmetric: what ``theirs`` has beyond ``ours`` counts only where it changes the meaning.
    """
    kind = ours.get("resourceType", "")
    if theirs.get("resourceType") != kind or any(name not in ours and name not in _ADDED for name in theirs):
        return False
    types = types_of(kind)
    said = (name for name in ours if name not in _HOUSEKEEPING)
    return all(name in theirs and _same(types.get(name, ""), name, ours[name], theirs[name]) for name in said)


@dataclass(frozen=True, slots=True)
class Loss:
    """Names of elements. ``grave``: they say another thing than we sent, or must be there and are not; ``light``: the EHR keeps
    no such thing, and nobody asked it to.
    """

    grave: tuple[str, ...] = ()
    light: tuple[str, ...] = ()


def lost(ours: ReadResource, theirs: ReadResource, must_keep: frozenset[str] | None = None) -> Loss:
    """The elements of our payload that the resource which was made of it does not say any more.

    Who, when and remarks do not count unless they must be kept; a security label always does: without it the resource is open
    to more people than it should be. Attachments that the EHR serves from a URL of its own are there.

    :param must_keep: elements whose absence is grave, beside :data:`MEANING`; None: all of them.
    """
    types = types_of(ours.get("resourceType", ""))
    needed = must_keep or frozenset()
    missing = {
        name
        for name in ours.keys() - (_ADDED - needed)
        if not _is_served(name, theirs.get(name))
        and not (name in theirs and _same(types.get(name, ""), name, ours[name], theirs[name]))
    }
    light = {name for name in missing if must_keep is not None and name not in theirs and name not in must_keep | MEANING}
    labels = (set(tokens((one.get("meta") or {}).get("security", ()))) for one in (ours, theirs))
    grave = missing - light | ({"meta.security"} if next(labels) - next(labels) else set())
    return Loss(tuple(sorted(grave)), tuple(sorted(light)))


def _is_served(name: str, theirs: Any) -> bool:
    attachments = [one.get("attachment") or {} for one in theirs] if name == "content" and isinstance(theirs, list) else []
    return bool(attachments) and all("url" in one and "data" not in one for one in attachments)


def _same(kind: str, name: str, ours: Any, theirs: Any) -> bool:
    if isinstance(ours, list):
        return isinstance(theirs, list) and _same_items(kind, name, ours, theirs)
    if type(ours) is not type(theirs) and not (_is_number(ours) and _is_number(theirs)):
        return False
    compare = _COMPARISONS.get(kind)
    if compare is not None:
        return compare(ours, theirs)
    return _same_object(kind, ours, theirs) if isinstance(ours, dict) else bool(ours == theirs)


def _same_items(kind: str, name: str, ours: list[Any], theirs: list[Any]) -> bool:
    """Each of ours has its own equal in theirs, in any order, and nothing is left where a list is not open."""
    left = list(theirs)
    for item in ours:
        match = next((index for index, other in enumerate(left) if _same(kind, name, item, other)), None)
        if match is None:
            return False
        del left[match]
    return not left or name in _OPEN_LISTS


def _same_object(kind: str, ours: ReadResource, theirs: ReadResource) -> bool:
    types = types_of(kind)
    if any(name not in ours and name not in _ADDED_INSIDE for name in theirs):
        return False
    return all(name in theirs and _same(types.get(name, ""), name, value, theirs[name]) for name, value in ours.items())


def _same_concept(ours: ReadResource, theirs: ReadResource) -> bool:
    """The coding that counts in ours is among theirs; servers translate, and drop local codes. Without codes, the text."""
    codings = ours.get("coding", ())
    key = concept_key(codings, ours.get("text"))
    if any(True for _ in tokens(codings)):
        return key in set(tokens(theirs.get("coding", ())))
    return fold(ours.get("text", "")) == fold(theirs.get("text", ""))


def _same_quantity(ours: ReadResource, theirs: ReadResource) -> bool:
    if not _same_value(ours.get("value"), theirs.get("value")) or ours.get("comparator") != theirs.get("comparator"):
        return False
    if "code" in ours and "code" in theirs:
        return bool(ours["code"] == theirs["code"] and theirs.get("system", ours.get("system")) == ours.get("system"))
    units = {ours.get("code"), ours.get("unit")} - {None}
    return theirs.get("code", theirs.get("unit")) in units if units else "unit" not in theirs


def _same_reference(ours: ReadResource, theirs: ReadResource) -> bool:
    """One relative, one absolute or with a version: the same type and id, whatever host the EHR has put before them."""
    one, other = literal(ours), literal(theirs)
    return ours.get("reference") == theirs.get("reference") if one is None or other is None else one[1:] == other[1:]


def _same_attachment(ours: ReadResource, theirs: ReadResource) -> bool:
    """The same bytes of the same kind; an EHR that serves them from a URL cannot be compared, so it is not the same."""
    kinds = [part.get("contentType", "").replace(" ", "").lower() for part in (ours, theirs)]
    return kinds[0] == kinds[1] and "data" in theirs and _same_bytes(ours.get("data", ""), theirs["data"])


def _same_bytes(ours: str, theirs: str) -> bool:
    return "".join(ours.split()) == "".join(theirs.split())


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _same_value(ours: Any, theirs: Any) -> bool:
    """72.5 is 72.50; a float is read by its shortest text, never by its binary value."""
    if _is_number(ours) and _is_number(theirs):
        return Decimal(str(ours)) == Decimal(str(theirs))
    return bool(ours == theirs)


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "Attachment": _same_attachment,
    "CodeableConcept": _same_concept,
    "Reference": _same_reference,
    "base64Binary": _same_bytes,
    "date": same_time,
    "dateTime": same_time,
    "instant": same_time,
    **dict.fromkeys(("decimal", "integer", "positiveInt", "unsignedInt"), _same_value),
    **dict.fromkeys(("Age", "Count", "Distance", "Duration", "Quantity", "SimpleQuantity"), _same_quantity),
}


def as_correction(payload: ReadResource) -> dict[str, Any]:
    """The payload of an update whose value changed: a finished Observation is then `corrected` (R4, observation-status)."""
    corrects = payload.get("resourceType") == "Observation" and payload.get("status") in _FINISHED
    return {**payload, "status": "corrected"} if corrects else dict(payload)


def laid_over(chart: ReadResource, payload: ReadResource, before: ReadResource | None = None) -> dict[str, Any]:
    """The chart's resource with what our payload says: the wanted state of the smallest update.

    What the chart has beyond ours stays; what says the same stays as the chart writes it. ``before`` is the payload that was
    sent last: what it said and the new one no longer says goes, unless the chart says something else there by now. A security
    label is added where it is missing, and none is ever taken away.
    Of a Patient, a telecom or address is laid over the one of the same system or use. A narrative of the old content goes.
    """
    kind = payload["resourceType"]
    types = types_of(kind)
    wanted = dict(chart)
    for name, value in payload.items():
        if name in _HOUSEKEEPING or (name in chart and _same(types.get(name, ""), name, value, chart[name])):
            continue
        for other in _alternatives(kind).get(name, ()):
            wanted.pop(other, None)
        lay = _PATIENT_LISTS.get(name) if kind == "Patient" else None
        wanted[name] = lay(chart.get(name, []), value) if lay else value
    for name in before or ():
        gone = name not in payload and name not in _HOUSEKEEPING and name in wanted
        if gone and _same(types.get(name, ""), name, (before or {})[name], wanted[name]):
            del wanted[name]
    if wanted != chart:
        wanted.pop("text", None)
    missing = [i for i in payload.get("identifier", ()) if not any(_same_identifier(i, o) for o in chart.get("identifier", ()))]
    if missing:
        wanted["identifier"] = [*chart.get("identifier", ()), *missing]
    meta = chart.get("meta", {})
    borne = set(tokens(meta.get("security", ())))
    labels = [label for label in payload.get("meta", {}).get("security", ()) if next(tokens([label])) not in borne]
    if labels:
        wanted["meta"] = {**meta, "security": [*meta.get("security", ()), *labels]}
    return wanted


def _same_identifier(one: ReadResource, other: ReadResource) -> bool:
    return (one.get("system"), one.get("value")) == (other.get("system"), other.get("value"))


@cache
def _alternatives(kind: str) -> dict[str, tuple[str, ...]]:
    """The other members of each choice: `valueString` excludes `valueQuantity`."""
    found: dict[str, tuple[str, ...]] = {}
    for element in definitions().structures[kind].elements:
        names = element.json_names()
        found |= {name: tuple(other for other in names if other != name) for name in names if len(names) > 1}
    return found


def _lay_telecom(chart: list[dict[str, Any]], ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    wanted = list(chart)
    for entry in ours:
        uses = {entry["use"]} if "use" in entry else {None, "home"}
        place = next((n for n, o in enumerate(wanted) if o.get("system") == entry["system"] and o.get("use") in uses), None)
        if place is None:
            wanted.append(entry)
        else:
            wanted[place] = {**wanted[place], **entry}
    return wanted


def _lay_address(chart: list[dict[str, Any]], ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    wanted = list(chart)
    for entry in ours:
        place = next((n for n, other in enumerate(wanted) if other.get("use", "home") == entry.get("use", "home")), None)
        if place is None:
            wanted.append(entry)
        else:
            merged = {**wanted[place], **entry}
            merged.pop("text", None)  # a formatted copy of the old address
            wanted[place] = merged
    return wanted


_PATIENT_LISTS = {"telecom": _lay_telecom, "address": _lay_address}
