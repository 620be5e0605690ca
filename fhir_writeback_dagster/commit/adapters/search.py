"""Search values as FHIR R4 writes them (search.html, escaping): one place, because a wrong escape matches the wrong patient."""

from __future__ import annotations

from urllib.parse import quote

_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\|,$"})


def token(system: str, value: str) -> str:
    """``system|value`` with the characters escaped that mean something in a token."""
    return f"{system.translate(_SPECIAL)}|{value.translate(_SPECIAL)}"


def if_none_exist(system: str, value: str) -> str:
    """The value of ``If-None-Exist`` (and of ``request.ifNoneExist``): a query without its question mark, percent-encoded."""
    return f"identifier={quote(token(system, value), safe='')}"
