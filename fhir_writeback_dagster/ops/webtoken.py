"""Who may see Dagster's page: a link that works once, and what it is exchanged for; signed with a secret of this installation.

The secret is a file in the project's state folder (0600), made anew whenever the services start. Whoever can read it may do
what the page does: a command that prints a link, and local tools, which send a token with each request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from pathlib import Path
from typing import Literal

from fhir_writeback_dagster.errors import ServiceError
from fhir_writeback_dagster.ops.folder import StateFolder

LOGIN = "/fhir-writeback/login"
LINK_S = 24 * 3600
SESSION_S = 7 * 24 * 3600

Purpose = Literal["link", "session"]

_LIFETIME_S: dict[Purpose, int] = {"link": LINK_S, "session": SESSION_S}
_FORM = re.compile(r"(\d{1,12})\.([A-Za-z0-9_-]{22})\.([0-9a-f]{64})")
_FILE = "web.secret"


def make_secret(state: StateFolder) -> Path:
    """A new secret for the page of this installation; links and sessions of the former one end."""
    return state.write(_FILE, secrets.token_urlsafe(32))


def read_secret(path: Path) -> bytes:
    """:raises ServiceError: it is not there: the services do not run."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ServiceError(
            "no_page", f"there is no secret of Dagster's page ({type(error).__name__})", where=str(path), fix="start `up`"
        ) from None


def link(state: StateFolder, web_url: str) -> str:
    """A new link that opens Dagster's page once, within a day."""
    return f"{web_url}{LOGIN}?token={issue(read_secret(state.path / _FILE), 'link')}"


def headers(state: StateFolder) -> dict[str, str]:
    """What a local tool sends with a request to the page."""
    return {"Authorization": f"Bearer {issue(read_secret(state.path / _FILE), 'session')}"}


def issue(secret: bytes, purpose: Purpose, now: float | None = None) -> str:
    """A token that :func:`is_valid` takes for ``purpose`` until its time is over."""
    return _signed(secret, purpose, int(time.time() if now is None else now), secrets.token_urlsafe(16))


def is_valid(secret: bytes, purpose: Purpose, token: str, now: float | None = None) -> bool:
    """Whether ``token`` was issued with ``secret`` for ``purpose`` and is still young enough."""
    parts = _FORM.fullmatch(token)
    if parts is None:
        return False
    at = int(parts[1])
    genuine = hmac.compare_digest(_signed(secret, purpose, at, parts[2]), token)
    age = (time.time() if now is None else now) - at
    return genuine and -60 <= age <= _LIFETIME_S[purpose]


def issued_at(token: str) -> int:
    """When a token says it was issued, in seconds of Unix time."""
    return int(token.partition(".")[0])


def _signed(secret: bytes, purpose: Purpose, at: int, nonce: str) -> str:
    mac = hmac.new(secret, f"{purpose}|{at}|{nonce}".encode(), hashlib.sha256).hexdigest()
    return f"{at}.{nonce}.{mac}"
