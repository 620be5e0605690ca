"""Access tokens by SMART Backend Services: `private_key_jwt` with RS384 or ES384, one token for all requests of a run.

HL7 SMART App Launch 2.2, backend-services and client-confidential-asymmetric: the assertion lives at most five minutes, its
`jti` is never used twice, its `aud` is the token endpoint, which the EHR's `.well-known/smart-configuration` names.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.commit.answer import Answer
from fhir_writeback_dagster.commit.scopes import missing
from fhir_writeback_dagster.commit.transport import Http, NoAnswer
from fhir_writeback_dagster.errors import ConfigError, TargetError
from fhir_writeback_dagster.secretref import resolve
from fhir_writeback_dagster.tenants import Tenant

ASSERTION_SECONDS = 240
SKEW_SECONDS = 30.0
"""A token is renewed so long before it expires; a quarter of its life where that is less."""

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_OAUTH_ERRORS = frozenset(
    {"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope"}
)
_OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
_JSON = {"Accept": "application/json"}


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A private JWK with what it signs with."""

    key: RSAKey | ECKey
    algorithm: Literal["RS384", "ES384"]
    key_id: str


def load_client_key(tenant: Tenant, home: Path) -> ClientKey:
    """The tenant's client key.

    :raises SecretError: its reference does not resolve.
    :raises ConfigError: it is no private JWK for RS384 or ES384; the text never holds a part of it.
    """
    where = f"tenants/{tenant.tenant}.yaml ehr.auth.private_key"
    wrong = ConfigError(
        "bad_client_key",
        "not a private JWK for RS384 or ES384",
        where=where,
        mend="put the client's private key there as JWK (kty RSA, or EC with P-384)",
    )
    if tenant.ehr.auth.private_key is None:
        raise wrong
    try:
        data = canonicaljson.decode(resolve(tenant.ehr.auth.private_key, home).reveal())
        kind = data["kty"]
        key: RSAKey | ECKey = RSAKey.import_key(data) if kind == "RSA" else ECKey.import_key(data)
        algorithm: Literal["RS384", "ES384"] = "RS384" if kind == "RSA" else "ES384"
        right_curve = kind == "RSA" or data.get("crv") == "P-384"
        if not (key.is_private and right_curve and data.get("alg", algorithm) == algorithm):
            raise wrong
        key_id = data.get("kid")
        return ClientKey(key, algorithm, key_id if isinstance(key_id, str) else key.thumbprint())
    except (msgspec.DecodeError, JoseError, KeyError, TypeError, ValueError, AttributeError):
        raise wrong from None


class Tokens:
    """The tenant's access token: fetched once for all who wait, kept until shortly before it expires."""

    def __init__(self, http: Http, tenant: Tenant, home: Path) -> None:
        self._http, self._tenant, self._home = http, tenant, home
        self._where = f"tenants/{tenant.tenant}.yaml ehr.auth"
        self._lock = asyncio.Lock()
        self._endpoint: str | None = None
        self._token: str | None = None
        self._renew_at = 0.0
        self.fetched = 0

    async def header(self) -> dict[str, str]:
        """``Authorization`` for a request; nothing for a target without authorization.

        :raises TargetError: no token could be had, or it lacks a scope that the tenant asks for.
        :raises ConfigError: the client's key is missing or wrong.
        """
        if self._tenant.ehr.auth.type == "none":
            return {}
        async with self._lock:
            if self._token is None or time.monotonic() >= self._renew_at:
                await self._fetch()
            return {"Authorization": f"Bearer {self._token}"}

    async def refused(self, header: dict[str, str]) -> bool:
        """The target answered 401 to ``header``: forget that token. True: a new one is worth a try.

        Many requests in flight are refused at once; the first forgets the token, the others then find a newer one.
        """
        if not header:
            return False
        async with self._lock:
            if header["Authorization"] == f"Bearer {self._token}":
                self._token = None
        return True

    async def _fetch(self) -> None:
        key = load_client_key(self._tenant, self._home)  # read anew each time: a rotated key is taken up
        endpoint = await self._discover()
        form = {
            "grant_type": "client_credentials",
            "scope": " ".join(self._tenant.ehr.auth.scopes),
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": self._assertion(key, endpoint),
        }
        headers = {**_JSON, "Content-Type": "application/x-www-form-urlencoded"}
        try:
            answer = await self._http.request("POST", endpoint, headers, urlencode(form).encode())
        except NoAnswer as none:
            raise self._unreachable("the token endpoint", none) from None
        self._take(answer)

    def _take(self, answer: Answer) -> None:
        body = answer.json()
        granted = body if isinstance(body, dict) else {}
        token, lifetime = granted.get("access_token"), granted.get("expires_in")
        if answer.status != 200 or not isinstance(token, str) or not token.isascii() or not token.isprintable():
            error = granted.get("error")
            said = f" ({error})" if error in _OAUTH_ERRORS else ""
            raise TargetError(
                "client_refused",
                f"the token endpoint answered {answer.status}{said} to client {self._tenant.ehr.auth.client_id}",
                where=self._where,
                mend="is this key's public half registered for this client, and are the scopes allowed to it?",
            )
        scope = granted.get("scope")
        if isinstance(scope, str) and (lacking := missing(self._tenant.ehr.auth.scopes, scope.split())):
            raise TargetError(
                "scope_missing",
                f"not granted: {', '.join(lacking)}",
                where=self._where,
                mend="have the EHR grant these scopes, or take them out of `scopes`; nothing was written",
            )
        seconds = float(lifetime) if isinstance(lifetime, int) and lifetime > 0 else 60.0
        self._token, self._renew_at = token, time.monotonic() + seconds - min(SKEW_SECONDS, seconds / 4)
        self.fetched += 1

    def _assertion(self, key: ClientKey, endpoint: str) -> str:
        now, client = int(time.time()), self._tenant.ehr.auth.client_id
        claims = {
            "iss": client,
            "sub": client,
            "aud": endpoint,
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
                where=f"{self._where}.private_key",
                mend="its `use` must be sig and its `key_ops`, if any, must hold sign",
            ) from None

    async def _discover(self) -> str:
        if self._endpoint is None:
            base = self._http.egress.base_url
            found = (await self._document(f"{base}/.well-known/smart-configuration")).get("token_endpoint")
            if not isinstance(found, str):
                found = _oauth_uri(await self._document(f"{base}/metadata"))
            if found is None:
                raise TargetError(
                    "no_token_endpoint",
                    "neither smart-configuration nor /metadata names a token endpoint",
                    where=base,
                    mend="is `ehr.base_url` the FHIR base? Use `auth: {type: none}` for an open sandbox",
                )
            self._http.egress.allow(found)
            self._endpoint = found
        return self._endpoint

    async def _document(self, url: str) -> dict[str, Any]:
        try:
            answer = await self._http.request("GET", url, {"Accept": "application/json, application/fhir+json;q=0.9"})
        except NoAnswer as none:
            raise self._unreachable("the EHR", none) from None
        if answer.status >= 500:
            raise TargetError(
                "unavailable", f"the EHR answered {answer.status}", where=url, mend="wait; nothing was sent, nothing is lost"
            )
        body = answer.json() if answer.status == 200 else None
        return body if isinstance(body, dict) else {}

    def _unreachable(self, who: str, none: NoAnswer) -> TargetError:
        mend = "wait, or mend `ehr.base_url`; nothing was written, nothing is lost"
        return TargetError(none.code, f"{who} does not answer", where=self._http.egress.base_url, mend=mend)


def _oauth_uri(capability: dict[str, Any]) -> str | None:
    """The token endpoint as CapabilityStatements named it before smart-configuration."""
    try:
        return next(
            str(part["valueUri"])
            for rest in capability["rest"]
            for extension in rest["security"]["extension"]
            if extension["url"] == _OAUTH_URIS
            for part in extension["extension"]
            if part["url"] == "token"
        )
    except (StopIteration, LookupError, TypeError):
        return None
