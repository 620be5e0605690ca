"""Keys of sandbox clients; a hospital's EHR gets a client's public key, the client keeps the private one."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

from joserfc.jwk import ECKey


def make_client_key(kid: str = "sandbox") -> tuple[str, dict[str, Any]]:
    """A new ES384 key for SMART Backend Services: the private JWK as JSON text, and the JWKS to register with the EHR."""
    key = ECKey.generate_key("P-384", {"kid": kid, "use": "sig", "alg": "ES384"})
    return json.dumps(key.as_dict(private=True)), {"keys": [dict(key.as_dict(private=False))]}


def make_secret() -> str:
    """32 random bytes in base64: a sealing or an identity key."""
    return base64.b64encode(os.urandom(32)).decode()
