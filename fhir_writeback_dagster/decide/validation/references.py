"""Reference target types (R4, references): what a Reference names must be of a type that its element allows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fhir_writeback_dagster.rules.fhir.r4 import definitions

_LITERAL = re.compile(r"(?:(?:https?://\S+?/)|^)([A-Z][A-Za-z]+)/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?$")
_CONDITIONAL = re.compile(r"([A-Z][A-Za-z]+)\?\S+")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")


def reference_problem(node: Mapping[str, Any], targets: frozenset[str], contained: Mapping[str, str]) -> str | None:
    """The code of what is wrong with a Reference, or None.

    :param targets: allowed resource types; empty allows any.
    :param contained: type of each contained resource by its id.
    """
    literal = node.get("reference")
    stated = node.get("type")
    if isinstance(literal, str) and stated is None:  # the usual shape, without the regular expressions
        kind, _, identifier = literal.partition("/")
        if kind in targets and identifier.replace("-", "a").isalnum() and identifier.isascii() and len(identifier) <= 64:
            return None
    named = None
    if isinstance(literal, str):
        if literal.startswith("#"):
            if literal != "#" and literal[1:] not in contained:
                return "ref-1"
            named = contained.get(literal[1:])
        else:
            match = _LITERAL.match(literal) or _CONDITIONAL.fullmatch(literal)
            if match is not None and match[1] in definitions().resources:
                named = match[1]
            elif _ABSOLUTE.fullmatch(literal) is None:
                return "reference_form"  # relative, but not [type]/[id]
    if isinstance(stated, str) and stated in definitions().resources:
        if named is not None and named != stated:
            return "reference_type"
        named = stated
    return "reference_target" if named is not None and targets and named not in targets else None
