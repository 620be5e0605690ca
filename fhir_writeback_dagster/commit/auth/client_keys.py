"""The client's own keys: which one signs, which ones are published, and how one gives way to the next.

A key set is a private JWKS. A key is ``next`` (published, so that the EHR knows it before it is used), ``current`` (it signs) or
``retired`` (published still, for what was signed with it just now); a set of one key without a state is that one. Rotation is
*publish* → wait until every EHR has read the JWKS again → *switch* → wait until the last assertion and token of the old key have
run out → *retire*. The state stands in the secret itself, so that what signs and what is published cannot come apart.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeyParameters, RSAKey

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.errors import ConfigError

Algorithm = Literal["RS384", "ES384"]
_STATE, _SINCE = "fw_state", "fw_since"
_PUBLIC = ("kty", "kid", "alg", "use", "crv", "x", "y", "n", "e")


class _NoKey(Exception):
    """What stands there is no private JWK for RS384 or ES384."""


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A private JWK with what it signs with."""

    key: RSAKey | ECKey = field(repr=False)
    algorithm: Algorithm
    key_id: str

    @classmethod
    def of(cls, data: dict[str, Any]) -> Self:
        kind = data["kty"]
        key: RSAKey | ECKey = RSAKey.import_key(data) if kind == "RSA" else ECKey.import_key(data)
        algorithm: Algorithm = "RS384" if kind == "RSA" else "ES384"
        right_curve = kind == "RSA" or data.get("crv") == "P-384"
        if not (key.is_private and right_curve and data.get("alg", algorithm) == algorithm):
            raise _NoKey
        key_id = data.get("kid")
        return cls(key, algorithm, key_id if isinstance(key_id, str) else key.thumbprint())


def read_keys(secret: bytes, where: str) -> list[dict[str, Any]]:
    """The private JWKs of a secret, each good to sign with.

    :raises ConfigError: it is no private JWK, nor a JWKS of such, for RS384 or ES384; the text never holds a part of it.
    """
    try:
        data = canonicaljson.decode(secret)
        keys = [dict(one) for one in data.get("keys", [data])]
        for one in keys:
            ClientKey.of(one)
        (_,) = _of(keys, "current")
    except (_NoKey, msgspec.DecodeError, JoseError, LookupError, TypeError, ValueError, AttributeError):
        raise ConfigError(
            "bad_client_key",
            "not a private JWK for RS384 or ES384, nor a key set with one that is current",
            where=where,
            fix="put the client's private key there as JWK (kty RSA, or EC with P-384), or `fhir-writeback target keys`",
        ) from None
    return keys


def current(keys: list[dict[str, Any]]) -> ClientKey:
    """The one that signs."""
    return ClientKey.of(_of(keys, "current")[0])


def public(keys: list[dict[str, Any]]) -> dict[str, Any]:
    """The JWKS to publish: of each key only what a verifier needs (joserfc also writes a private key's ``key_ops``)."""
    return {"keys": [{name: one[name] for name in _PUBLIC if name in one} | {"kid": ClientKey.of(one).key_id} for one in keys]}


def describe(keys: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(kid, algorithm, state) of each."""
    return [(found.key_id, found.algorithm, str(one.get(_STATE, "current"))) for one in keys for found in [ClientKey.of(one)]]


def published(keys: list[dict[str, Any]], algorithm: Algorithm | None = None, now: float | None = None) -> list[dict[str, Any]]:
    """With a new key that is to come, of the current one's algorithm where none is said.

    :raises ConfigError: one is on its way already.
    """
    if _of(keys, "next"):
        raise _not_yet("a next key is published already", "switch to it first")
    at = time.time() if now is None else now
    wanted = algorithm or current(keys).algorithm
    kid = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
    options: dict[str, Any] = {"kid": kid, "alg": wanted, "use": "sig"}
    parameters = cast("KeyParameters", options)
    made = RSAKey.generate_key(3072, parameters) if wanted == "RS384" else ECKey.generate_key("P-384", parameters)
    standing = [{**one, _STATE: one.get(_STATE, "current")} for one in keys]
    return [*standing, {**made.as_dict(private=True), _STATE: "next", _SINCE: int(at)}]


def switched(keys: list[dict[str, Any]], wait_s: float, now: float | None = None) -> list[dict[str, Any]]:
    """The next key signs from now on.

    :raises ConfigError: there is none, or it was not published for ``wait_s`` seconds yet.
    """
    at = time.time() if now is None else now
    _ready(_of(keys, "next"), wait_s, at, "no next key is published", "publish one first")
    after = {"next": "current", "current": "retired"}
    return [{**one, _STATE: after[one[_STATE]], _SINCE: int(at)} if one[_STATE] in after else one for one in keys]


def retired(keys: list[dict[str, Any]], wait_s: float, now: float | None = None) -> list[dict[str, Any]]:
    """Without the keys that sign no more.

    :raises ConfigError: there is none, or it signed within the last ``wait_s`` seconds.
    """
    _ready(_of(keys, "retired"), wait_s, time.time() if now is None else now, "no key is retired", "switch first")
    return [one for one in keys if one.get(_STATE) != "retired"]


def _of(keys: list[dict[str, Any]], state: str) -> list[dict[str, Any]]:
    return [one for one in keys if one.get(_STATE, "current") == state]


def _ready(found: list[dict[str, Any]], wait_s: float, now: float, lacking: str, fix: str) -> None:
    if not found:
        raise _not_yet(lacking, fix)
    left = max(float(one.get(_SINCE, now)) for one in found) + wait_s - now
    if left > 0:
        raise _not_yet(
            f"too soon by {left / 3600:.1f} hours", "wait, or say a shorter --wait where you know that the EHR has read it"
        )


def _not_yet(what: str, fix: str) -> ConfigError:
    return ConfigError("rotation", what, where="ehr.auth.private_key", fix=fix)
