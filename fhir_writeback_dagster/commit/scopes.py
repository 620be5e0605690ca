"""SMART scopes, version 1 and 2, compared: does what was granted cover what was asked for?

HL7 SMART App Launch 2.2, scopes-and-launch-context. ``system/Observation.write`` (v1) means create, update and delete;
``system/Observation.cu`` (v2) names letters of ``cruds``; ``*`` stands for every type, or for every letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SCOPE = re.compile(
    r"(?P<context>system|user|patient)/(?P<type>\*|[A-Z][A-Za-z]+)\.(?P<rights>\*|read|write|[cruds]+)(?:\?(?P<query>.*))?"
)
_V1 = {"read": "rs", "write": "cud", "*": "cruds"}


def missing(requested: Iterable[str], granted: Iterable[str]) -> list[str]:
    """The requested scopes that no granted one covers, in order. A scope that is no FHIR scope needs its equal."""
    given = list(granted)
    return [scope for scope in requested if not any(_covers(one, scope) for one in given)]


def _covers(granted: str, requested: str) -> bool:
    have, want = _SCOPE.fullmatch(granted), _SCOPE.fullmatch(requested)
    if granted == requested or have is None or want is None:
        return granted == requested
    return (
        have["context"] == want["context"]
        and have["type"] in ("*", want["type"])
        and set(_letters(want["rights"])) <= set(_letters(have["rights"]))
        and have["query"] in (None, want["query"])
    )


def _letters(rights: str) -> str:
    return _V1.get(rights, rights)
