"""The semantic layer: invariants, reference targets, UCUM units and vital-signs rules, in one walk over a payload.

The walk follows a plan made from the R4 definitions, so that a rule runs on every element of its type, nested ones included.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from fhir_writeback_dagster.decide.validation.invariants import (
    COMPONENT_VALUES,
    ELSEWHERE,
    RULES,
    VALUES,
    FhirNode,
    InvariantRule,
    has_coding,
)
from fhir_writeback_dagster.decide.validation.issues import Issue, IssueSeverity, path_text
from fhir_writeback_dagster.decide.validation.references import reference_problem
from fhir_writeback_dagster.rules.fhir.r4 import LOINC, UCUM, Element, definitions
from fhir_writeback_dagster.rules.fhir.ucum import is_ucum
from fhir_writeback_dagster.rules.fhir.unit_reading import nobody_means

_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
_INTEGERS = frozenset({"integer", "positiveInt", "unsignedInt"})
_QUANTITIES = frozenset({"Age", "Count", "Distance", "Duration", "Quantity", "SimpleQuantity"})

Path = tuple[str | int, ...]
_Ruled = tuple[str, InvariantRule, IssueSeverity]


@dataclass(slots=True, eq=False)
class _Plan:
    """What holds for one type, and the plans of its elements by JSON property."""

    rules: tuple[_Ruled, ...] = ()
    container_rules: tuple[_Ruled, ...] = ()
    """`dom-…`: only of a resource that contains others."""
    children: dict[str, _Plan] = field(default_factory=dict)
    targets: frozenset[str] | None = None
    """Of a Reference: the allowed types; empty allows any."""
    ucum: IssueSeverity | None = None
    """Of a quantity: how bad a code is that claims UCUM and is none."""
    whole: bool = False
    """A number that is written without a point."""


_WHOLE = _Plan(whole=True)


def _own_rules(name: str) -> tuple[_Ruled, ...]:
    rules: list[_Ruled] = [
        (c.key, RULES[c.key], "error" if c.severity == "error" else "warning")
        for c in definitions().structures[name].constraints
        if c.key not in ELSEWHERE
    ]
    return (*rules, ("ext-1", RULES["ext-1"], "error")) if name == "Extension" else tuple(rules)


def _child(element: Element, kind: str, plans: dict[str, _Plan]) -> _Plan | None:
    if kind == "Reference":
        plan = plans["Reference"]
        return _Plan(plan.rules, children=plan.children, targets=frozenset(element.targets) - {"Resource"})
    return _WHOLE if kind in _INTEGERS else plans.get(kind.removeprefix("#"))


@cache
def _plans(unit: IssueSeverity) -> dict[str, _Plan]:
    """The plan of every structure, linked; ``unit`` is how bad a wrong UCUM code is."""
    structures = definitions().structures
    plans = {}
    for name in structures:
        rules = _own_rules(name)
        plans[name] = _Plan(
            tuple(rule for rule in rules if not rule[0].startswith("dom-")),
            tuple(rule for rule in rules if rule[0].startswith("dom-")),
            ucum=unit if name in _QUANTITIES else None,
        )
    extended = _Plan(children={"extension": plans["Extension"]})
    for name, structure in structures.items():
        for element in structure.elements:
            for key, kind in element.json_names().items():
                child = _child(element, kind, plans)
                if child is not None:
                    plans[name].children[key] = child
                if kind[0].islower():
                    plans[name].children[f"_{key}"] = extended
    return plans


def _plan_of(resource_type: str) -> _Plan | None:
    """A wrong unit is an error where charts calculate with it, in an Observation; elsewhere a warning.

    HL7's own examples of MedicationRequest dose in ``ea``, ``drop`` and ``mEq``, none of which is UCUM.
    """
    return _plans("error" if resource_type == "Observation" else "warning").get(resource_type)


class _Walk:
    """One pass over one resource; ``found`` collects code, path and severity."""

    def __init__(self, contained: dict[str, str]) -> None:
        self.contained = contained
        self.found: list[tuple[str, Path, IssueSeverity]] = []

    def visit(self, node: FhirNode, plan: _Plan, path: Path) -> None:
        rules = plan.rules + plan.container_rules if "contained" in node else plan.rules
        for key, holds, severity in rules:
            if not holds(node):
                self.found.append((key, path, severity))
        if plan.targets is not None:
            problem = reference_problem(node, plan.targets, self.contained)
            if problem:
                self.found.append((problem, path, "error"))
        elif plan.ucum is not None and node.get("system") == UCUM and (wrong := _wrong_unit(node.get("code"))):
            self.found.append((wrong, (*path, "code"), plan.ucum))
        children = plan.children
        for name, value in node.items():
            child = children.get(name)
            if child is None:
                continue
            if type(value) is dict:
                self.visit(value, child, (*path, name))
            elif type(value) is list:
                self._each(node, name, value, child, path)
            elif child.whole and type(value) is not int:
                self.found.append(("type", (*path, name), "error"))

    def _each(self, node: FhirNode, name: str, values: list[Any], plan: _Plan, path: Path) -> None:
        if name[0] == "_" and not _paired(node.get(name[1:]), values):
            self.found.append(("null", (*path, name), "error"))
        for index, value in enumerate(values):
            if type(value) is dict:
                self.visit(value, plan, (*path, name, index))


def _wrong_unit(code: Any) -> str | None:
    if code is None:
        return None
    if not is_ucum(code):
        return "ucum"
    return "ucum_meaning" if nobody_means(code) else None


def _paired(values: list[Any] | None, extensions: list[Any]) -> bool:
    """Arrays of a primitive and of its extensions go side by side, and no place is empty in both (R4, JSON)."""
    if values is None:
        return None not in extensions
    return len(values) == len(extensions) and all(pair != (None, None) for pair in zip(values, extensions, strict=True))


def _unit_issue(node: FhirNode, path: Path) -> tuple[str, Path, IssueSeverity] | None:
    quantity = node.get("valueQuantity")
    if quantity is None:
        return None
    for coding in node["code"].get("coding", ()):
        allowed = definitions().vital_units.get(coding.get("code", "")) if coding.get("system") == LOINC else None
        if allowed and (quantity.get("system") != UCUM or quantity.get("code") not in allowed):
            return "vs-unit", (*path, "valueQuantity", "code"), "error"
    return None


def _vital_signs(node: FhirNode, path: Path) -> list[tuple[str, Path, IssueSeverity]]:
    """Invariants and units of the R4 vital-signs profiles, for every Observation of that category.

    What the profiles merely require (an effective time) is not asked of one that does not claim them: HL7's own f202 has none.
    """
    if not any(has_coding(category, _CATEGORY, {"vital-signs"}) for category in node.get("category", ())):
        return []
    found: list[tuple[str, Path, IssueSeverity]] = []
    if len(node.get("effectiveDateTime", "0000-00-00")) < 10:
        found.append(("vs-1", (*path, "effectiveDateTime"), "error"))
    valued = "dataAbsentReason" in node or not VALUES.isdisjoint(node)
    if "component" not in node and "hasMember" not in node and not valued:
        found.append(("vs-2", path, "error"))
    parts = [(node, path)]
    for index, part in enumerate(node.get("component", ())):
        place = (*path, "component", index)
        parts.append((part, place))
        if "dataAbsentReason" not in part and COMPONENT_VALUES.isdisjoint(part):
            found.append(("vs-3", place, "error"))
    return found + [issue for part, place in parts if (issue := _unit_issue(part, place)) is not None]


def semantic_issues(resource: FhirNode) -> list[Issue]:
    """What a resource that the schema has accepted breaks beyond it.

    Null places in arrays of primitives and integers with a point count as syntactic: the schema cannot say them.
    """
    kind = resource["resourceType"]
    parts: list[FhirNode] = resource.get("contained", [])
    walk = _Walk({part["id"]: part["resourceType"] for part in parts if "id" in part})
    plan = _plan_of(kind)
    if plan is not None:
        walk.visit(resource, plan, (kind,))
    for index, part in enumerate(parts):
        inner = _plan_of(part["resourceType"])
        if inner is not None:
            walk.visit(part, inner, (kind, "contained", index))
    if kind == "Observation":
        walk.found += _vital_signs(resource, (kind,))
    return [
        Issue("syntactic" if code in {"null", "type"} else "semantic", code, path_text(path), severity)
        for code, path, severity in walk.found
    ]
