"""What a FHIR Reference names: the one place where references are compared.

R4 has four ways to name a resource (references.html): relative (``Patient/1``), absolute (``https://ehr.example/fhir/Patient/1``),
by an identifier, and in words only. Servers mix them: they answer with the scheme and the host that a proxy in front of them
knows, with a version, or with a slash at the end. A relative reference, and an absolute one to a base that is known to be the
EHR's, tell which of its resources is meant. Everything else does not: the same id at another server is another resource.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from fhir_writeback_dagster.rules.fhir.resource_url import ResourceUrl, parse, server_of

_RELATIVE = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?/?", re.ASCII)


class Literal(NamedTuple):
    """What the text of a literal reference says; ``server`` as in :class:`ResourceUrl`, empty where it is relative."""

    server: str
    resource_type: str
    id: str


def literal(reference: object) -> Literal | None:
    """The resource that the ``reference`` of a Reference names by type and id, whatever its version; None: it names none so."""
    text = reference.get("reference") if isinstance(reference, dict) else None
    return _read(text) if isinstance(text, str) else None


@lru_cache(maxsize=4096)
def _read(text: str) -> Literal | None:
    if match := _RELATIVE.fullmatch(text):
        return Literal("", match[1], match[2]) if match[2].strip(".") else None
    found: ResourceUrl | None = parse(text)
    return Literal(*found) if found and found.id.strip(".") else None


@lru_cache(maxsize=256)
def _servers(bases: tuple[str, ...]) -> frozenset[str]:
    return frozenset({"", *(server for base in bases if (server := server_of(base)))})


def own(reference: object, bases: Iterable[str]) -> Literal | None:
    """The resource of this EHR that ``reference`` names; None: another's, or nobody can tell.

    :param bases: the URLs under which the EHR names its own resources: its FHIR base, and others that are known to be its.
    """
    found = literal(reference)
    return found if found and found.server in _servers(tuple(bases)) else None


def referenced(reference: object, resource_type: str, bases: Iterable[str]) -> str | None:
    """The id of this EHR's resource of ``resource_type`` that ``reference`` names; None: nobody can tell, or it is no such."""
    found = own(reference, bases)
    return found.id if found and found.resource_type == resource_type else None


def identifier_of(reference: object) -> tuple[str, str] | None:
    """System and value of the identifier by which ``reference`` names somebody; None where it lacks one of them."""
    found = reference.get("identifier") if isinstance(reference, dict) else None
    system, value = (found.get("system"), found.get("value")) if isinstance(found, dict) else (None, None)
    return (system, value) if isinstance(system, str) and isinstance(value, str) and system and value.strip() else None


def same(one: str, other: str) -> bool | None:
    """Do two texts of literal references name one resource? None: by type and id they do, at servers that may differ; or one of
    them is no such text.
    """
    first, second = _read(one), _read(other)
    if first is None or second is None:
        return True if one == other else None
    if first[1:] != second[1:]:
        return False
    return True if first.server == second.server else None
