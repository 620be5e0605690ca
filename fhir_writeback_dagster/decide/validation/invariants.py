"""The FHIR invariants of the written types, by hand: the FHIRPath of each stands beside it in ``rules/r4``.

fhirpathpy takes about 1 ms a resource for the same rules, these 10 µs; it is the oracle in the tests, which also see that no
key of the definitions is left out. Each rule sees one element that the schema has already accepted, and is true if it holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fhir_writeback_dagster.rules.fhir.r4 import UCUM, definitions
from fhir_writeback_dagster.rules.fhir.time import reversed_period

FhirNode = dict[str, Any]
InvariantRule = Callable[[FhirNode], bool]

_CONDITION_CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"
_CONDITION_VERIFICATION = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
_ALLERGY_VERIFICATION = "http://terminology.hl7.org/CodeSystem/allergyintolerance-verification"
_OVER = {"inactive", "remission", "resolved"}


def _choice(type_name: str, element: str) -> frozenset[str]:
    names = next(e.json_names() for e in definitions().structures[type_name].elements if e.name == element)
    return frozenset(names) | {f"_{name}" for name in names}


VALUES = _choice("Observation", "value[x]")
COMPONENT_VALUES = _choice("Observation.component", "value[x]")
_EXTENSION_VALUES = _choice("Extension", "value[x]")
_ABATEMENTS = _choice("Condition", "abatement[x]")


def _has(node: FhirNode, name: str) -> bool:
    """``name.exists()``: there by its value or, for a primitive, by its extensions alone."""
    return name in node or f"_{name}" in node


def _needs(name: str, other: str) -> InvariantRule:
    """``name.empty() or other.exists()``"""
    extended = f"_{name}"
    return lambda node: (name not in node and extended not in node) or _has(node, other)


def _one_of(*names: str) -> InvariantRule:
    return lambda node: any(_has(node, name) for name in names)


def _not_both(one: str, other: str) -> InvariantRule:
    return lambda node: not (_has(node, one) and _has(node, other))


def _xor(one: str, other: str) -> InvariantRule:
    return lambda node: _has(node, one) != _has(node, other)


def _not_negative(name: str) -> InvariantRule:
    return lambda node: bool(name not in node or node[name] >= 0)


def has_coding(concept: FhirNode | None, system: str, codes: set[str]) -> bool:
    return any(c.get("code") in codes and c.get("system") == system for c in (concept or {}).get("coding", ()))


def _in_error(node: FhirNode, system: str) -> bool:
    return has_coding(node.get("verificationStatus"), system, {"entered-in-error"})


def _con_3(node: FhirNode) -> bool:
    if "clinicalStatus" in node or _in_error(node, _CONDITION_VERIFICATION):
        return True
    # The published expression compares a CodeableConcept with a string and so never fails; the text means this.
    return not any(c.get("code") == "problem-list-item" for k in node.get("category", ()) for c in k.get("coding", ()))


def _con_4(node: FhirNode) -> bool:
    return _ABATEMENTS.isdisjoint(node) or has_coding(node.get("clinicalStatus"), _CONDITION_CLINICAL, _OVER)


def _obs_6(node: FhirNode) -> bool:
    return "dataAbsentReason" not in node or VALUES.isdisjoint(node)


def _obs_7(node: FhirNode) -> bool:
    """A value beside a component of the same code would say the same thing twice."""
    if "component" not in node or VALUES.isdisjoint(node):
        return True
    own = node["code"].get("coding", ())
    return not any(coding in own for part in node["component"] for coding in part["code"].get("coding", ()))


def _per_1(node: FhirNode) -> bool:
    start, end = node.get("start"), node.get("end")
    return start is None or end is None or not reversed_period(start, end)


def _rng_2(node: FhirNode) -> bool:
    low, high = node.get("low"), node.get("high")
    if low is None or high is None or (low.get("system"), low.get("code")) != (high.get("system"), high.get("code")):
        return True  # quantities of different units do not compare
    return bool("value" not in low or "value" not in high or low["value"] <= high["value"])


def _rat_1(node: FhirNode) -> bool:
    return ("numerator" in node) == ("denominator" in node) and ("numerator" in node or "extension" in node)


def _ucum_or_no_system(node: FhirNode) -> bool:
    return bool(node.get("system", UCUM) == UCUM)


def _unit_if_value(node: FhirNode) -> bool:
    return _has(node, "code") or not _has(node, "value")


def _age_1(node: FhirNode) -> bool:
    return _unit_if_value(node) and _ucum_or_no_system(node) and ("value" not in node or node["value"] > 0)


def _cnt_3(node: FhirNode) -> bool:
    whole = "value" not in node or "." not in str(node["value"])
    return _unit_if_value(node) and _ucum_or_no_system(node) and node.get("code", "1") == "1" and whole


def _drt_1(node: FhirNode) -> bool:
    return not _has(node, "code") or (node.get("system") == UCUM and _has(node, "value"))


def _tim_9(node: FhirNode) -> bool:
    return not _has(node, "offset") or ("when" in node and not {"C", "CM", "CD", "CV"} & set(node["when"]))


def _trd_3(node: FhirNode) -> bool:
    kind = node.get("type", "")
    return (
        (kind != "named-event" or _has(node, "name"))
        and (kind != "periodic" or any(key.startswith(("timing", "_timing")) for key in node))
        and (not kind.startswith("data-") or "data" in node)
    )


def _trd_1(node: FhirNode) -> bool:
    return not ("data" in node and any(key.startswith(("timing", "_timing")) for key in node))


def _contained(node: FhirNode) -> list[FhirNode]:
    parts: list[FhirNode] = node.get("contained", [])
    return parts


def _texts(value: object) -> set[str]:
    """Every string that stands somewhere in ``value``: where a contained resource could be named."""
    if isinstance(value, str):
        return {value}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*map(_texts, parts))


def _dom_3(node: FhirNode) -> bool:
    if "contained" not in node:
        return True
    named = _texts(node)
    return all(f"#{part.get('id')}" in named or "#" in _texts(part) for part in _contained(node))


#: XHTML 1.0 chapters 7 to 11 and 15 as far as R4 lets a narrative have them (narrative, xhtml).
_XHTML = frozenset(
    """a abbr acronym address area b bdo big blockquote br caption cite code col colgroup dd dfn div dl dt em h1 h2 h3 h4 h5 h6 hr
    i img kbd li map ol p pre q samp small span strong sub sup table tbody td tfoot th thead tr tt ul var""".split()
)
_TAG = re.compile(r"</?([A-Za-z][\w:-]*)[^>]*>")
_ACTIVE = re.compile(r"<[^>]*\s(?:on\w+\s*=|(?:href|src)\s*=\s*[\"']?\s*javascript:)", re.IGNORECASE)


def _txt_1(node: FhirNode) -> bool:
    """Formatting only: known elements, and nothing that a browser would run."""
    div: str = node.get("div", "")
    return _XHTML.issuperset(_TAG.findall(div)) and _ACTIVE.search(div) is None


def _txt_2(node: FhirNode) -> bool:
    div: str = node.get("div", "")
    return "<img" in div or bool(_TAG.sub("", div).strip())


RULES: dict[str, InvariantRule] = {
    "age-1": _age_1,
    "ait-1": lambda n: "clinicalStatus" in n or _in_error(n, _ALLERGY_VERIFICATION),
    "ait-2": lambda n: "clinicalStatus" not in n or not _in_error(n, _ALLERGY_VERIFICATION),
    "att-1": _needs("data", "contentType"),
    "cnt-3": _cnt_3,
    "con-1": _one_of("summary", "assessment"),
    "con-2": _one_of("code", "detail"),
    "con-3": _con_3,
    "con-4": _con_4,
    "con-5": lambda n: "clinicalStatus" not in n or not _in_error(n, _CONDITION_VERIFICATION),
    "cpt-2": _needs("value", "system"),
    "dis-1": lambda n: _unit_if_value(n) and _ucum_or_no_system(n),
    "dom-2": lambda n: not any("contained" in part for part in _contained(n)),
    "dom-3": _dom_3,
    "dom-4": lambda n: all({"versionId", "lastUpdated"}.isdisjoint(part.get("meta", ())) for part in _contained(n)),
    "dom-5": lambda n: not any("security" in part.get("meta", {}) for part in _contained(n)),
    "drq-1": _xor("path", "searchParam"),
    "drq-2": _xor("path", "searchParam"),
    "drt-1": _drt_1,
    "exp-1": _one_of("expression", "reference"),
    "ext-1": lambda n: ("extension" in n) != (not _EXTENSION_VALUES.isdisjoint(n)),
    "imm-1": _one_of("documentType", "reference"),
    "obs-3": _one_of("low", "high", "text"),
    "obs-6": _obs_6,
    "obs-7": _obs_7,
    "org-1": _one_of("identifier", "name"),
    "org-2": lambda n: not any(a.get("use") == "home" for a in n.get("address", ())),
    "org-3": lambda n: not any(t.get("use") == "home" for t in n.get("telecom", ())),
    "pat-1": _one_of("name", "telecom", "address", "organization"),
    "per-1": _per_1,
    "qty-3": _needs("code", "system"),
    "rat-1": _rat_1,
    "rng-2": _rng_2,
    "sqty-1": lambda n: not _has(n, "comparator"),
    "tim-1": _needs("duration", "durationUnit"),
    "tim-2": _needs("period", "periodUnit"),
    "tim-4": _not_negative("duration"),
    "tim-5": _not_negative("period"),
    "tim-6": _needs("periodMax", "period"),
    "tim-7": _needs("durationMax", "duration"),
    "tim-8": _needs("countMax", "count"),
    "tim-9": _tim_9,
    "tim-10": _not_both("timeOfDay", "when"),
    "trd-1": _trd_1,
    "trd-2": _needs("condition", "data"),
    "trd-3": _trd_3,
    "txt-1": _txt_1,
    "txt-2": _txt_2,
}

#: The key that the reference check holds.
ELSEWHERE = frozenset({"ref-1"})
