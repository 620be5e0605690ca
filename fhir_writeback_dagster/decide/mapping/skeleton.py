"""A mapping's YAML skeleton as one function from a record to a FHIR object.

A leaf ``"{{ … }}"`` is an expression, any other leaf a constant. What an expression leaves empty (None, "", [], {}) is left
out, and so is an object or list that has expressions of which none gave a value: ``{system: phone, value: "{{ phone }}"}`` is
gone where the source names no phone. ``$for: part in components`` in a list's item repeats that item.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fhir_writeback_dagster.decide.mapping.expressions import BadExpression, Expression, Names, Scope, compile_expression
from fhir_writeback_dagster.rules.fhir.r4 import types_of

_EXPRESSION = re.compile(r"\{\{(.*)\}\}", re.DOTALL)
_LOOP = re.compile(r"([a-z_]+) in (\w+)")

Loc = tuple[str | int, ...]


class BadSkeleton(ValueError):
    """What is wrong with a skeleton, and where in it."""

    def __init__(self, message: str, loc: Loc) -> None:
        super().__init__(message)
        self.loc = loc


class Part(NamedTuple):
    """A compiled piece; ``dynamic`` if an expression is in it. ``make`` answers None for what is to be left out."""

    make: Expression
    dynamic: bool


def compile_skeleton(skeleton: Mapping[str, Any], structure: str, names: Names, loc: Loc = ()) -> Part:
    """Compile the object of the R4 type ``structure`` that is the payload; its own constants stay in any case.

    :raises BadSkeleton: an element that R4 does not have there, or an expression that does not compile.
    """
    return _object(skeleton, structure, names, loc, kept=True)


def compile_leaf(text: str, names: Names, loc: Loc) -> Expression:
    """Compile one ``"{{ … }}"`` by itself, such as an identity field."""
    match = _EXPRESSION.fullmatch(text)
    if match is None:
        raise BadSkeleton("expected an expression in {{ }}", loc)
    return _leaf(match[1], names, loc)


def _leaf(text: str, names: Names, loc: Loc) -> Expression:
    try:
        expression, _ = compile_expression(text, names)
    except BadExpression as error:
        raise BadSkeleton(str(error), loc) from None

    def value(scope: Scope) -> Any:
        found = expression(scope)
        # Empty text, lists and objects are left out; 0 and false are values.
        return found if found or (found is not None and not hasattr(found, "__len__")) else None

    return value


def _part(node: Any, structure: str, names: Names, loc: Loc) -> Part:
    if isinstance(node, dict):
        return _object(node, structure, names, loc)
    if isinstance(node, list):
        return _list(node, structure, names, loc)
    if isinstance(node, str):
        match = _EXPRESSION.fullmatch(node)
        if match is not None:
            return Part(_leaf(match[1], names, loc), dynamic=True)
        if "{{" in node or "{%" in node:
            raise BadSkeleton("an expression is the whole leaf; join texts with ~ inside it", loc)
    if node is None or node == "":
        raise BadSkeleton("expected a value or an expression; leave out what has none", loc)
    return Part(lambda _scope: node, dynamic=False)


def _object(node: Mapping[str, Any], structure: str, names: Names, loc: Loc, *, kept: bool = False) -> Part:
    elements = types_of(structure)
    members: list[tuple[str, Callable[[Scope], Any], bool]] = []
    for key, value in node.items():
        if key not in elements:
            known = ", ".join(sorted(elements)) or "no elements"
            raise BadSkeleton(f"R4 has no element {key!r} in {structure}; it has {known}", (*loc, key))
        part = _part(value, elements[key], names, (*loc, key))
        members.append((key, part.make, part.dynamic))
    fixed = not any(dynamic for _, _, dynamic in members)

    def make(scope: Scope) -> dict[str, Any] | None:
        made: dict[str, Any] = {}
        said = fixed or kept
        for key, part, dynamic in members:
            value = part(scope)
            if value is not None:
                made[key] = value
                said = said or dynamic
        return made if said else None

    return Part(make, dynamic=not fixed)


def _list(node: list[Any], structure: str, names: Names, loc: Loc) -> Part:
    parts = [_item(item, structure, names, (*loc, index)) for index, item in enumerate(node)]

    def make(scope: Scope) -> list[Any] | None:
        made: list[Any] = []
        for part, repeated in parts:
            value = part.make(scope)
            if repeated:
                made += value
            elif value is not None:
                made.append(value)
        return made or None

    return Part(make, dynamic=any(part.dynamic for part, _ in parts))


def _item(node: Any, structure: str, names: Names, loc: Loc) -> tuple[Part, bool]:
    if not (isinstance(node, dict) and "$for" in node):
        return _part(node, structure, names, loc), False
    match = _LOOP.fullmatch(str(node["$for"]))
    if match is None:
        raise BadSkeleton("expected `$for: item in field`", (*loc, "$for"))
    variable, field = match.groups()
    try:
        inner = names.with_item(variable, names.type_of(field))
    except BadExpression as error:
        raise BadSkeleton(str(error), (*loc, "$for")) from None
    body = _object({k: v for k, v in node.items() if k != "$for"}, structure, inner, loc).make

    def repeat(scope: Scope) -> list[Any]:
        made = (body({**scope, variable: item}) for item in scope.get(field) or ())
        return [value for value in made if value is not None]

    return Part(repeat, dynamic=True), True
