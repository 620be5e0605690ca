"""What a probe writes on a target, and how all of it, and nothing else, is taken back."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.commit.adapters.search import token
from fhir_writeback_dagster.commit.fhir_client import FHIR_JSON, FhirClient
from fhir_writeback_dagster.commit.http.request import Request
from fhir_writeback_dagster.commit.http.transport import NoAnswer
from fhir_writeback_dagster.commit.protocol.answer import Answer, dicts
from fhir_writeback_dagster.commit.protocol.headers import status
from fhir_writeback_dagster.commit.protocol.identity import bears
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.rules.fhir.resource_url import is_id, named

TYPE = "Observation"
TEXT = "fhir-writeback probe"
LOOKS_FOR_S = 5.0
PAGE = 50
"""More than a probe ever makes under one key."""


@dataclass(slots=True)
class Traces:
    """``system`` is the tenant's identifier system. ``left``: what could not be taken back again."""

    ehr: FhirClient
    system: str
    left: list[str] = field(default_factory=list)
    lag_s: float = 0.0
    """How long the last look went on without finding anything; a slow search is no lag."""
    _keys: set[str] = field(default_factory=set)
    _made: set[str] = field(default_factory=set)

    def key(self) -> str:
        """A new one, for one resource of ours."""
        key = f"probe-{uuid.uuid4()}"
        self._keys.add(key)
        return key

    def observation(self, key: str) -> Resource:
        """Of no patient."""
        return {
            "resourceType": TYPE,
            "identifier": [{"system": self.system, "value": key}],
            "status": "final",
            "code": {"text": TEXT},
            "valueString": "probe",
        }

    async def send(self, method: str, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        whole = {"Content-Type": FHIR_JSON, "Prefer": "return=representation", **(headers or {})}
        answer = await self.ehr.send(Request(method, path, whole, canonicaljson.encode(body)))
        self._note(answer)
        return answer

    async def first_page(self, resource_type: str, params: Sequence[tuple[str, str]], count: int) -> list[Resource]:
        """A server that ignores what it is searched for answers with all that it has: no further page is asked for."""
        async for page in self.ehr.pages(resource_type, params, count=count):
            return page
        return []

    async def look(self, key: str, *, patient: bool = True) -> list[Resource]:
        """What bears the key, looked for again for some seconds where nothing is found and something may be."""
        began = time.monotonic()
        until, self.lag_s = began + (LOOKS_FOR_S if patient else 0), 0.0
        while True:
            page = await self.first_page(TYPE, [("identifier", token(self.system, key))], PAGE)
            found = [one for one in page if bears(one, self.system, key)]
            self._made.update(str(one["id"]) for one in found)
            if found or time.monotonic() > until:
                return found
            await asyncio.sleep(0.5)
            self.lag_s = time.monotonic() - began

    async def clean_up(self) -> None:
        """Delete what was made; what cannot be deleted is marked as entered in error, or told of. An answer may have named what
        somebody else made: what does not say that it is ours is left alone.
        """
        for made in sorted(self._made):
            try:
                now = await self.ehr.read(TYPE, made)
                there = now.shown() or {}
                if now.status in (404, 410) or (there and not self._is_probes(there)):
                    continue
                if there and (await self.ehr.send(Request("DELETE", f"{TYPE}/{made}"))).status < 300:
                    continue
                wrong = {**there, "status": "entered-in-error"}
                if there and (await self.send("PUT", f"{TYPE}/{made}", wrong, guard_of(now))).status < 300:
                    continue
            except NoAnswer:
                pass
            self.left.append(f"{TYPE}/{made}")

    def _is_probes(self, there: Resource) -> bool:
        """By its key, or, where the EHR drops that, by what only a probe writes."""
        code = there.get("code")
        return self.is_ours(there) or ("subject" not in there and isinstance(code, dict) and code.get("text") == TEXT)

    def is_ours(self, resource: Resource) -> bool:
        """Does it bear a key of this probe's?"""
        return any(bears(resource, self.system, key) for key in self._keys)

    def _note(self, answer: Answer) -> None:
        """An answer may show what is not ours (a conditional create that matched somebody's): only what was created by it,
        or bears a key of ours, is taken back later.
        """
        body = answer.resource() or {}
        if answer.status == 201 and (made := created_id(answer)):
            self._made.add(made)
        for entry in dicts(body.get("entry")):
            response = entry.get("response")
            place = named(response.get("location")) if isinstance(response, dict) else None
            if isinstance(response, dict) and status(response.get("status")) == 201 and place and place.resource_type == TYPE:
                self._made.add(place.id)
        for one in [body, *(entry.get("resource") for entry in dicts(body.get("entry")))]:
            if isinstance(one, dict) and one.get("resourceType") == TYPE and is_id(one.get("id")) and self.is_ours(one):
                self._made.add(one["id"])


def created_id(answer: Answer) -> str | None:
    """The id of the Observation that an answer shows, by its body or its ``Location``."""
    body, place = answer.resource() or {}, answer.location()
    if body.get("resourceType") == TYPE and is_id(body.get("id")):
        return str(body["id"])
    return place.id if place and place.resource_type == TYPE else None


def guard_of(answer: Answer, *, by_time: bool = False) -> dict[str, str]:
    """The header that lets an update through only while the resource stands as ``answer`` showed it; empty: there is none."""
    etag, changed = answer.etag(), answer.headers.get("last-modified")
    if changed and (by_time or not etag):
        return {"If-Unmodified-Since": changed}
    return {"If-Match": etag} if etag else {}
