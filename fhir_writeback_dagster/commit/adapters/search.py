"""Search values as FHIR R4 writes them (search.html, escaping): one place, because a wrong escape matches the wrong patient."""

from __future__ import annotations

from urllib.parse import quote

from fhir_writeback_dagster.commit.protocol.answer import dicts
from fhir_writeback_dagster.rules.fhir.resource import Resource

_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\|,$"})


def token(system: str, value: str) -> str:
    """``system|value`` with the characters escaped that mean something in a token."""
    return f"{system.translate(_SPECIAL)}|{value.translate(_SPECIAL)}"


def if_none_exist(system: str, value: str) -> str:
    """The value of ``If-None-Exist`` (and of ``request.ifNoneExist``): a query without its question mark, percent-encoded."""
    return f"identifier={quote(token(system, value), safe='')}"


def bears(resource: Resource, system: str, value: str | None = None) -> bool:
    """Has ``resource`` an identifier of ``system`` (and with ``value``)?"""
    return any(
        one.get("system") == system and (value is None or one.get("value") == value) for one in dicts(resource.get("identifier"))
    )
