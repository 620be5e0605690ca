"""What a token endpoint's answer grants (RFC 6749, 5.1), however it is worded; what cannot be relied on is refused by name."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.errors import TargetError

LONGEST_SECONDS = 86_400.0
"""A token is renewed after a day, whatever its answer promises."""
_OAUTH_ERRORS = frozenset(
    {"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope"}
)
_TOKEN = re.compile(r"[!-~]+")
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class Grant:
    """``seconds`` that the token lives, and ``scopes``; None: the answer does not say."""

    token: str = field(repr=False)
    seconds: float | None
    scopes: tuple[str, ...] | None


def read_grant(answer: Answer, where: str, client: str) -> Grant:
    """The grant in a 200.

    :raises TargetError: the answer refuses the client, or it grants something else than a bearer token for scopes.
    """
    body = answer.json()
    if answer.status != 200:
        error = body.get("error") if isinstance(body, dict) else None
        said = f" ({error})" if isinstance(error, str) and error in _OAUTH_ERRORS else ""
        raise TargetError(
            "client_refused",
            f"the token endpoint answered {answer.status}{said} to client {client}",
            where=where,
            fix="is this key's public half (or this secret) registered for this client, are the scopes allowed to it, and is its "
            "`aud` what the server wants (`ehr.auth.audience`)?",
        )
    granted = body if isinstance(body, dict) else {}
    kind = granted.get("token_type", "bearer")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise TargetError(
            "token_type_unknown",
            "the token endpoint granted something else than a bearer token",
            where=where,
            fix="have the client registered for bearer tokens; others (DPoP, MAC) are not built",
        )
    token, scopes = granted.get("access_token"), _scopes(granted.get("scope"))
    if not isinstance(token, str) or not _TOKEN.fullmatch(token) or scopes == ():
        what = "scopes that are none" if scopes == () else "no token"
        raise TargetError(
            "odd_token_answer",
            f"the token endpoint answered 200 with {what}",
            where=where,
            fix="is `token_endpoint` the authorization server's? Nothing was written",
        )
    return Grant(token, _seconds(granted.get("expires_in")), None if scopes is None else tuple(scopes))


def _scopes(value: Any) -> list[str] | tuple[()] | None:
    """The scopes of text or of a list of texts; None: left out, which says that they are as asked for; (): nobody can tell."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return [scope for one in value for scope in one.split()]
    return ()


def _seconds(value: Any) -> float | None:
    """A number or its text; None: anything else, so that the matrix' or the shortest life counts."""
    if isinstance(value, str) and _SECONDS.fullmatch(value):
        value = Decimal(value)
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)) or value <= 0:
        return None
    return float(min(value, Decimal(LONGEST_SECONDS)))
