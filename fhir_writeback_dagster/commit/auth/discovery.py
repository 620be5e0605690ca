"""What the EHR says of its authorization: `.well-known/smart-configuration`, or its CapabilityStatement as before SMART 2."""

from __future__ import annotations

from typing import Any

from fhir_writeback_dagster.commit.http.egress import Origin
from fhir_writeback_dagster.commit.http.request import Request
from fhir_writeback_dagster.commit.http.transport import Http, NoAnswer
from fhir_writeback_dagster.commit.protocol.answer import dicts
from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.rules.target.capabilities import server

ENDPOINT_CHANGED, ENDPOINT_UNAPPROVED = "token_endpoint_changed", "token_endpoint_unapproved"
_OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"


async def token_endpoint(http: Http, stated: str | None, approved: str | None = None, *, anywhere: bool = False) -> str:
    """Where tokens are had; ``stated`` by the tenant where the EHR does not say. The address is let through the egress guard.

    :param approved: what the EHR said when somebody approved it (empty: nothing). Who changes its answer would get our secret.
    :param anywhere: what nobody approved yet will do: for a sandbox, and for a person who is about to approve it.
    :raises TargetError: nobody names one, the EHR does not answer, it is not an address that this tenant may have, or not the
        one that was approved.
    """
    base = http.egress.base_url
    found = stated or (await smart_configuration(http)).get("token_endpoint")
    if not isinstance(found, str):
        found = oauth_uri(await _document(http, f"{base}/metadata"))
    if found is None:
        raise TargetError(
            "no_token_endpoint",
            "neither smart-configuration nor /metadata names a token endpoint",
            where=base,
            fix="is `ehr.base_url` the FHIR base? Name `ehr.auth.token_endpoint`; `auth: {type: none}` is for an open sandbox",
        )
    if stated is None and approved is not None and found != approved:
        raise TargetError(
            ENDPOINT_CHANGED,
            "the EHR names another token endpoint than was approved; no credential was sent there",
            where=base,
            fix="ask the EHR's people; if it moved, fhir-writeback target probe TENANT --approve",
        )
    if stated is None and approved is None and not anywhere:
        raise TargetError(
            ENDPOINT_UNAPPROVED,
            f"the EHR names {Origin.of(found) or 'something else than an address'} for tokens, and nobody approved that; no "
            "credential was sent there",
            where=base,
            fix="name `ehr.auth.token_endpoint`; or, if that is right, fhir-writeback target probe TENANT --read-only --approve",
        )
    http.egress.allow(found)
    return found


async def issuer(http: Http) -> str | None:
    """The issuer of tokens, as the EHR names it; None: it does not.

    :raises TargetError: the EHR does not answer.
    """
    found = (await smart_configuration(http)).get("issuer")
    return found if isinstance(found, str) and found.isprintable() and found.startswith(("https://", "http://")) else None


async def smart_configuration(http: Http) -> dict[str, Any]:
    """The document; empty where there is none.

    :raises TargetError: the EHR does not answer.
    """
    return await _document(http, f"{http.egress.base_url}/.well-known/smart-configuration")


async def _document(http: Http, url: str) -> dict[str, Any]:
    headers = {"Accept": "application/json, application/fhir+json;q=0.9"}
    try:
        answer = await http.request(Request("GET", url, headers))
    except NoAnswer as none:
        raise unreachable(http, "the EHR", none) from None
    if answer.status >= 500:
        raise TargetError(
            "unavailable", f"the EHR answered {answer.status}", where=url, fix="wait; nothing was sent, nothing is lost"
        )
    body = answer.json() if answer.status == 200 else None
    return body if isinstance(body, dict) else {}


def unreachable(http: Http, who: str, none: NoAnswer) -> TargetError:
    fix = "wait, or fix `ehr.base_url`; nothing was written, nothing is lost"
    return TargetError(none.code, f"{who} does not answer", where=http.egress.base_url, fix=fix)


def oauth_uri(capability: dict[str, Any]) -> str | None:
    """The token endpoint as CapabilityStatements named it before smart-configuration."""
    security = server(capability).get("security")
    found = [
        part.get("valueUri")
        for extension in dicts(security.get("extension") if isinstance(security, dict) else None)
        if extension.get("url") == _OAUTH_URIS
        for part in dicts(extension.get("extension"))
        if part.get("url") == "token"
    ]
    return next((uri for uri in found if isinstance(uri, str)), None)
