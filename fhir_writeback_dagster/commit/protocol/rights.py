"""Which right an EHR says that we lack (RFC 6750, 3.1), read from whatever its challenge looks like."""

from __future__ import annotations

import re

from fhir_writeback_dagster.commit.protocol.answer import Answer

MOST_SCOPES = 20
_ERROR = re.compile(r'(?:^|[\s,])error\s*=\s*"?insufficient_scope\b', re.IGNORECASE)
_SCOPE = re.compile(r'(?:^|[\s,])scope\s*=\s*"([^"]{0,4000})"', re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z]+/[A-Za-z*]+\.[a-z*]+(?:\?[A-Za-z0-9_=&.|:/-]{1,200})?")
_CODES = frozenset({"insufficient_scope", "insufficient-scope"})


def lacks_scope(answer: Answer) -> bool:
    """Does a refusal say that the token's scopes do not reach so far?"""
    if answer.status not in (401, 403):
        return False
    return bool(_ERROR.search(answer.headers.get("www-authenticate", ""))) or bool(_CODES & answer.codes())


def named_scopes(answer: Answer) -> list[str]:
    """The scopes that the refusal names as wanting; what does not look like one could be anything, and is not kept."""
    found = _SCOPE.search(answer.headers.get("www-authenticate", ""))
    return [one for one in (found[1].split() if found else []) if _NAME.fullmatch(one)][:MOST_SCOPES]
