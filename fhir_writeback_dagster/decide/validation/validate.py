"""Is a payload valid R4? The syntactic layer first; what it accepts goes through the semantic layer.

Two validators do the syntactic work: the schema (:mod:`schema`, every payload) and fhir.resources: each new *shape* of payload,
that is its set of paths and JSON types, because a second, foreign reading of R4 finds what ours misses and costs nothing once a
shape is known; and every payload that contains a type which the schema does not know. docs/validation.md has what each finds and
takes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from fhir_writeback_dagster.decide.validation.issues import Issue, path_text
from fhir_writeback_dagster.decide.validation.semantics import semantic_issues
from fhir_writeback_dagster.decide.validation.syntax import syntactic_issues
from fhir_writeback_dagster.rules.fhir.r4 import definitions

__all__ = ["Issue", "validate"]

#: Shapes of one mapping are a few dozen; an agent that sends ever new ones must not fill the memory.
_MAX_SHAPES = 10_000


def validate(payload: dict[str, Any]) -> list[Issue]:
    """What is wrong with ``payload``, a resource as :mod:`canonicaljson` parses it (decimals as Decimal).

    Empty, or warnings only: valid. What the schema refuses does not reach the semantic layer.
    """
    kind = payload.get("resourceType")
    if not isinstance(kind, str) or kind not in definitions().written:
        return [Issue("syntactic", "unsupported_type", "resourceType")]
    try:
        return syntactic_issues(payload) or [*_model_issues(payload, kind), *semantic_issues(payload)]
    except RecursionError:
        return [Issue("syntactic", "too_deep", kind)]  # extensions within extensions, hundreds deep


def shape(value: dict[str, Any]) -> object:
    """The set of paths and JSON types of ``value``, hashable; how many items an array has does not matter."""
    return frozenset([key if type(part) is str else (key, _shape(part)) for key, part in value.items()])


def _shape(value: object) -> object:
    if type(value) is dict:
        return shape(value)
    if type(value) is list:
        return (list, frozenset([_shape(item) for item in value]))
    return type(value)


@cache
def _known_shapes() -> set[object]:
    """Shapes that fhir.resources has accepted in this process."""
    return set()


def _model_issues(payload: dict[str, Any], kind: str) -> list[Issue]:
    known = _known_shapes()
    form = shape(payload)
    # A contained type that we have no definitions of is read by nobody else, so its values count, not its shape alone.
    alone = any(part.get("resourceType") not in definitions().structures for part in payload.get("contained", ()))
    if form in known and not alone:
        return []
    from fhir.resources.R4B import get_fhir_model_class  # 0.3 s and 20 MB, only in a process that validates
    from pydantic import ValidationError

    try:
        get_fhir_model_class(kind).model_validate(payload)
    except ValidationError as error:
        places = error.errors(include_url=False, include_context=False, include_input=False)
        return [Issue("syntactic", "model", path_text((kind, *place["loc"]))) for place in places]
    except (AttributeError, TypeError):  # its validators trip over some values (fhir_core 1.1.12, an int as url): no consent
        return [Issue("syntactic", "model", kind)]
    if len(known) >= _MAX_SHAPES:
        known.clear()
    known.add(form)
    return []
