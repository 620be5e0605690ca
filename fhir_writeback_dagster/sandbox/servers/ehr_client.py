"""A small FHIR client of the sandbox's own: it loads an EHR before the demo and looks into it afterwards.

It shares no line with `commit`, so that what it counts is evidence, not an echo.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator, Iterable, Sequence
from typing import Self

import httpx
from joserfc import jwt
from joserfc.jwk import ECKey

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.rules.fhir.resource import Resource

_JSON = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json", "Cache-Control": "no-cache"}
_BUNDLE = 200  # entries a transaction: one commit of the server each


class _BackendServices(httpx.Auth):
    """SMART Backend Services with an ES384 key (HL7 SMART App Launch 2.2, client-confidential-asymmetric)."""

    requires_response_body = True

    def __init__(self, base_url: str, client_id: str, private_jwk: str, scope: str) -> None:
        self._base_url, self._client_id, self._scope = base_url, client_id, scope
        self._key = ECKey.import_key(canonicaljson.decode(private_jwk.encode()))
        self._token = ""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if not self._token:
            yield from self._fetch()
        request.headers["Authorization"] = f"Bearer {self._token}"
        response = yield request
        if response.status_code == 401:
            yield from self._fetch()
            request.headers["Authorization"] = f"Bearer {self._token}"
            yield request

    def _fetch(self) -> Generator[httpx.Request, httpx.Response, None]:
        discovery = yield httpx.Request("GET", f"{self._base_url}/.well-known/smart-configuration")
        endpoint = _answer(discovery)["token_endpoint"]
        assertion = jwt.encode(
            {"alg": "ES384", "typ": "JWT", "kid": self._key.kid},
            {
                "iss": self._client_id,
                "sub": self._client_id,
                "aud": endpoint,
                "exp": int(time.time()) + 240,
                "jti": str(uuid.uuid4()),
            },
            self._key,
            algorithms=["ES384"],
        )
        form = {
            "grant_type": "client_credentials",
            "scope": self._scope,
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": assertion,
        }
        self._token = _answer((yield httpx.Request("POST", endpoint, data=form)))["access_token"]


class EhrClient:
    """One EHR as its administrator sees it. Without a key it sends no token (a server that is open)."""

    def __init__(self, base_url: str, *, client_id: str = "", private_jwk: str = "", scope: str = "system/*.cruds") -> None:
        self.base_url = base_url
        self._auth = _BackendServices(base_url, client_id, private_jwk, scope) if private_jwk else None
        self._client = httpx.Client(auth=self._auth, headers=_JSON, timeout=60, trust_env=False)

    def load(self, resources: Iterable[Resource]) -> int:
        """Put resources under the ids that they have, in transactions of 200; returns how many.

        Order them so that what is referred to comes first, or within 200.
        """
        waiting = list(resources)
        for start in range(0, len(waiting), _BUNDLE):
            entries = [
                {"resource": r, "request": {"method": "PUT", "url": f"{r['resourceType']}/{r['id']}"}}
                for r in waiting[start : start + _BUNDLE]
            ]
            self._send("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": entries})
        return len(waiting)

    def create(self, resource: Resource) -> Resource:
        """POST it, as somebody else's system would; returns it with the id that the EHR gave."""
        return self._send("POST", f"/{resource['resourceType']}", resource)

    def update(self, resource: Resource) -> Resource:
        """PUT it under its id, as a person at the EHR would."""
        return self._send("PUT", f"/{resource['resourceType']}/{resource['id']}", resource)

    def delete(self, resource_type: str, resource_id: str) -> None:
        self._send("DELETE", f"/{resource_type}/{resource_id}")

    def read(self, resource_type: str, resource_id: str) -> Resource:
        return self._send("GET", f"/{resource_type}/{resource_id}")

    def search(self, resource_type: str, **params: str | Sequence[str]) -> list[Resource]:
        """Every match of the search, through all pages."""
        url = httpx.URL(f"{self.base_url}/{resource_type}", params={"_count": "1000", **params})
        found: list[Resource] = []
        while True:
            bundle = self._send("GET", str(url))
            found += [e["resource"] for e in bundle.get("entry", []) if e.get("search", {}).get("mode") != "include"]
            following = [link["url"] for link in bundle.get("link", []) if link["relation"] == "next"]
            if not following:
                return found
            url = httpx.URL(following[0])

    def count(self, resource_type: str, **params: str) -> int:
        """How many resources match, by the EHR's own count."""
        url = httpx.URL(f"{self.base_url}/{resource_type}", params={"_summary": "count", **params})
        return int(self._send("GET", str(url))["total"])

    def versions(self, resource_type: str) -> int:
        """How many versions of this type the EHR ever stored: any write, whoever made it, makes the number rise."""
        return int(self._send("GET", f"/{resource_type}/_history?_count=1")["total"])

    def history(self, resource_type: str, ids: Iterable[str]) -> list[Resource]:
        """Every version of every resource of a type that was ever stored; of those with ``ids`` where the EHR shows no more."""
        try:
            return self._versions(f"/{resource_type}/_history?_count=1000")
        except TargetError:
            return [version for one in ids for version in self._versions(f"/{resource_type}/{one}/_history")]

    def _versions(self, path: str) -> list[Resource]:
        found: list[Resource] = []
        following: str | None = path
        while following is not None:
            bundle = self._send("GET", following)
            found += [entry["resource"] for entry in bundle.get("entry", []) if "resource" in entry]
            following = next((link["url"] for link in bundle.get("link", []) if link["relation"] == "next"), None)
        return found

    def bearer(self) -> str:
        """An ``Authorization`` header's value for other clients; this makes sure that its token is a good one."""
        self.versions("Patient")
        request = self._client.build_request("GET", self.base_url)
        return next(self._auth.auth_flow(request)).headers["Authorization"] if self._auth else ""

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, method: str, path: str, body: Resource | None = None) -> Resource:
        url = path if path.startswith("http") else self.base_url + path
        content = None if body is None else canonicaljson.encode(body)
        try:
            return _answer(self._client.request(method, url, content=content))
        except httpx.HTTPError as error:
            raise TargetError(
                "sandbox_ehr_silent", f"the sandbox EHR does not answer ({type(error).__name__})", where=self.base_url
            ) from None


def _answer(response: httpx.Response) -> Resource:
    if response.status_code >= 400:
        raise TargetError(
            "sandbox_ehr_refused",
            f"{response.request.method} was answered with {response.status_code}",
            where=str(response.request.url.copy_with(query=None)),
            fix="see sekmet.log in the demo's folder",
        )
    return canonicaljson.decode(response.content) if response.content else {}
