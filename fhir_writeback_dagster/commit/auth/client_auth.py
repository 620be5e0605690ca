"""How the client proves at the token endpoint who it is: by a signed assertion, by a secret, or by its TLS certificate.

HL7 SMART App Launch 2.2, client-confidential-asymmetric: an assertion lives at most five minutes, its ``jti`` is never used
twice, its ``aud`` is the token endpoint (or what the tenant says that its server wants instead). RFC 6749, 2.3.1 for secrets;
RFC 8705, 2.1 for certificates.
"""

from __future__ import annotations

import base64
import hashlib
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from joserfc import jwt
from joserfc.errors import JoseError

from fhir_writeback_dagster.commit.auth import client_keys
from fhir_writeback_dagster.commit.auth.client_keys import ClientKey
from fhir_writeback_dagster.commit.http.tls import certificate_of
from fhir_writeback_dagster.config.secrets import SecretRef, resolve
from fhir_writeback_dagster.config.tenants import Tenant
from fhir_writeback_dagster.errors import ConfigError
from fhir_writeback_dagster.rules.target.matrix import Method, Vendor, load_vendor

ASSERTION_SECONDS = 240
METHODS: dict[str, Method] = {
    "smart_backend": "private_key_jwt",
    "client_secret": "client_secret",
    "mtls": "mtls",
    "none": "none",
}
"""`ehr.auth.type`, as a matrix calls it."""
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class Proof:
    """What goes with a token request. ``credential`` tells one key or secret from another and is safe to hash and keep."""

    credential: str
    form: dict[str, str] = field(repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)


def prove(tenant: Tenant, home: Path, audience: str) -> Proof:
    """The proof for one request; the secret is read anew for each, so that a rotated one is taken up.

    :param audience: `aud` of a signed assertion.

    :raises ConfigError: the credential that the tenant names is missing or wrong, or not one that its vendor takes.
    """
    proof = _proof(tenant, home, audience)
    beside = certificate_of(tenant, home) if tenant.ehr.auth.type != "mtls" else ""
    return replace(proof, credential=f"{proof.credential} {beside}") if beside else proof


def check_method(tenant: Tenant, vendor: Vendor) -> None:
    """:raises ConfigError: the vendor is known not to take this way to prove who we are."""
    taken, ours = vendor.access.methods.value, METHODS[tenant.ehr.auth.type]
    # What the cloud's own authorization guards is reached by a gateway, which takes what its operator likes.
    if taken is None or ours in taken or "cloud" in taken or (ours == "none" and tenant.ehr.sandbox):
        return
    raise ConfigError(
        "auth_not_taken",
        f"{vendor.title} does not take `type: {tenant.ehr.auth.type}`",
        where=f"tenants/{tenant.tenant}.yaml ehr.auth.type",
        fix=f"one of {', '.join(kind for kind, method in METHODS.items() if method in taken) or 'none'}; docs/compatibility.md",
    )


def _proof(tenant: Tenant, home: Path, audience: str) -> Proof:
    auth = tenant.ehr.auth
    where = f"tenants/{tenant.tenant}.yaml ehr.auth"
    if auth.type == "mtls":
        _named(auth.certificate, f"{where}.certificate")
        return Proof(certificate_of(tenant, home), {"client_id": auth.client_id})
    if auth.type == "client_secret":
        reference = _named(auth.client_secret, f"{where}.client_secret")
        secret = resolve(reference, home).reveal().decode(errors="replace").strip()
        credential = hashlib.sha256(secret.encode()).hexdigest()
        if auth.secret_in == "post":  # noqa: S105 - where it goes, not what it is
            return Proof(credential, {"client_id": auth.client_id, "client_secret": secret})
        pair = f"{quote(auth.client_id, safe='')}:{quote(secret, safe='')}".encode()
        return Proof(credential, {}, {"Authorization": f"Basic {base64.b64encode(pair).decode()}"})
    key = load_client_key(tenant, home)
    form = {"client_assertion_type": _ASSERTION_TYPE, "client_assertion": _assertion(key, auth.client_id, audience, where)}
    return Proof(key.key.thumbprint(), form)


def load_client_key(tenant: Tenant, home: Path) -> ClientKey:
    """The key that signs now.

    :raises SecretError: its reference does not resolve.
    :raises ConfigError: it is no private JWK for RS384 or ES384, or for none that the vendor takes; the text never holds a
        part of it.
    """
    where = f"tenants/{tenant.tenant}.yaml ehr.auth.private_key"
    secret = resolve(_named(tenant.ehr.auth.private_key, where), home).reveal()
    key, vendor = client_keys.current(client_keys.read_keys(secret, where)), load_vendor(tenant.ehr.vendor)
    taken = vendor.access.algorithms.get(("RS384", "ES384"))
    if key.algorithm not in taken:
        raise ConfigError(
            "algorithm_not_taken",
            f"the key signs with {key.algorithm}, which {vendor.title} does not take",
            where=where,
            fix=f"fhir-writeback target keys {tenant.tenant} publish --algorithm {taken[0]}, then switch; docs/compatibility.md",
        )
    return key


def _named(reference: SecretRef | None, where: str) -> SecretRef:
    if reference is None:
        raise ConfigError("no_credential", "not set", where=where, fix="name the secret by reference")
    return reference


def _assertion(key: ClientKey, client: str, audience: str, where: str) -> str:
    now = int(time.time())
    claims = {
        "iss": client,
        "sub": client,
        "aud": audience,
        "iat": now,
        "exp": now + ASSERTION_SECONDS,
        "jti": str(uuid.uuid4()),
    }
    header = {"alg": key.algorithm, "kid": key.key_id, "typ": "JWT"}
    try:
        return jwt.encode(header, claims, key.key, algorithms=[key.algorithm])
    except JoseError as error:
        raise ConfigError(
            "bad_client_key",
            f"the key cannot sign ({type(error).__name__})",
            where=f"{where}.private_key",
            fix="its `use` must be sig and its `key_ops`, if any, must hold sign",
        ) from None
