"""Errors of the schema as issues: a code and a path, never a value, and never a name that FHIR does not know."""

from __future__ import annotations

from functools import cache
from typing import Any

from jsonschema_rs import ValidationError, ValidationErrorKind

from fhir_writeback_dagster.decide.validation.issues import Issue, path_text
from fhir_writeback_dagster.decide.validation.schema import schema_of, validator_of
from fhir_writeback_dagster.rules.fhir.r4 import definitions

_CODES: dict[type[ValidationErrorKind], str] = {
    ValidationErrorKind.Constant: "type",
    ValidationErrorKind.Contains: "binding",
    ValidationErrorKind.Enum: "binding",
    ValidationErrorKind.MaxLength: "too_long",
    ValidationErrorKind.Maximum: "range",
    ValidationErrorKind.MinItems: "empty",
    ValidationErrorKind.MinProperties: "empty",
    ValidationErrorKind.Minimum: "range",
    ValidationErrorKind.Pattern: "format",
    ValidationErrorKind.Type: "type",
}


def syntactic_issues(resource: dict[str, Any]) -> list[Issue]:
    """What the schema of its type finds in a resource of a written type; the valid way is one call into Rust."""
    kind: str = resource["resourceType"]
    validator = validator_of(kind)
    if validator.is_valid(resource):
        return []
    found = [issue for error in validator.iter_errors(resource) for issue in _issues(error, kind)]
    return list(dict.fromkeys(found))


def _issues(error: ValidationError, root: str) -> list[Issue]:
    path: tuple[str | int, ...] = (root, *error.instance_path)
    match error.kind:
        case ValidationErrorKind.Required(property=name):
            return [_issue("required", (*path, name))]
        case ValidationErrorKind.AdditionalProperties(unexpected=names):
            return [_issue("unknown_element", (*path, name if name in _names() else "?")) for name in names]
        case ValidationErrorKind.AnyOf(context=branches):
            return _composed(error, branches, path, root)
        case ValidationErrorKind.Not():
            rule = _rule(error, root)
            return [_issue("choice", (*path, rule["x-choice"]))] if "x-choice" in rule else [_issue("null", path)]
        case kind:
            return [_issue(_CODES.get(type(kind), "schema"), path)]


def _composed(
    error: ValidationError, branches: list[list[ValidationError]], path: tuple[str | int, ...], root: str
) -> list[Issue]:
    rule = _rule(error, root)
    if "x-required" in rule:
        return [_issue("required", (*path, rule["x-required"]))]
    if "x-null" in rule:
        return [_issue("null", (*path, rule["x-null"]))]
    if "x-empty" in rule:
        return [_issue("empty", path)]
    if rule["anyOf"][0] == {"type": "null"}:
        return [issue for inner in branches[1] for issue in _issues(inner, root)]
    return [_issue("binding", path)]


def _issue(code: str, path: tuple[str | int, ...]) -> Issue:
    return Issue("syntactic", code, path_text(path))


def _rule(error: ValidationError, root: str) -> dict[str, Any]:
    """The schema that holds the keyword which failed."""
    rule: Any = schema_of(root)
    for part in error.schema_path[:-1]:
        rule = rule[part]
    return rule if isinstance(rule, dict) else {}


@cache
def _names() -> frozenset[str]:
    """Every property name of the R4 types here: what else a payload calls an element could be a patient's name."""
    structures = definitions().structures.values()
    return frozenset(name for structure in structures for element in structure.elements for name in element.json_names())
