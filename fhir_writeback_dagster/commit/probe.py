"""Asking a target what it really does: each question is one small experiment, and its answer stands beside the matrix's cell.

Reads are harmless and run anywhere. What has to be written to be known is written to sandboxes only: Observations without a
patient, under an identifier of their own, taken back at the end.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fhir_writeback_dagster import canonicaljson
from fhir_writeback_dagster.commit.adapters.generic import JSON_PATCH, bears
from fhir_writeback_dagster.commit.adapters.search import if_none_exist, token
from fhir_writeback_dagster.commit.answer import Answer, dicts
from fhir_writeback_dagster.commit.client import FHIR_JSON, Ehr, Resource, Unreadable
from fhir_writeback_dagster.commit.transport import NoAnswer
from fhir_writeback_dagster.rules.target import Target

LOOKS_FOR_S = 5.0
RACERS = 8
_TYPE = "Observation"
_UNSAFE = frozenset(
    {
        "nonsense matches nothing",
        "create.precondition",
        "create.keeps_identifier",
        "update.precondition",
        "update.patch_precondition",
    }
)
"""Where the target does less here than the matrix says, writes are not safe."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One cell: what the matrix says, what the target did. ``expected`` None: the matrix does not know."""

    cell: str
    expected: Any
    found: Any

    @property
    def differs(self) -> bool:
        return self.expected is not None and self.expected != self.found

    @property
    def breaking(self) -> bool:
        return self.differs and self.cell in _UNSAFE

    def to_json(self) -> dict[str, Any]:
        return {
            "cell": self.cell,
            "matrix": self.expected,
            "found": self.found,
            "differs": self.differs,
            "breaking": self.breaking,
        }


@dataclass(slots=True)
class Probe:
    """``await Probe(ehr, target, system).run(write=True)``; ``system`` is the tenant's identifier system."""

    ehr: Ehr
    target: Target
    system: str
    findings: list[Finding] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    """Experiments that came to no answer: the target refused or did not answer what they begin with."""
    left: list[str] = field(default_factory=list)
    """What could not be taken back again."""
    _made: set[str] = field(default_factory=set)

    async def run(self, *, write: bool) -> None:
        """:raises TargetError: no token could be had."""
        await self._try(self._nonsense)
        if not write:
            return
        await self._try(self._validate)
        try:
            for experiment in (self._create, self._race, self._unknown_condition, self._put, self._patch, self._transaction):
                await self._try(experiment)
        finally:
            await self._clean_up()

    async def _try(self, experiment: Callable[[], Awaitable[None]]) -> None:
        try:
            await experiment()
        except (NoAnswer, Unreadable, _Inconclusive) as error:
            self.unanswered.append(f"{experiment.__name__.strip('_')}: {getattr(error, 'code', error)}")

    async def _nonsense(self) -> None:
        """An identifier that nobody has matches nothing: a server that ignores the parameter would match everything."""
        for name in ("Patient", _TYPE):
            found = await self.ehr.search(name, [("identifier", token(self.system, f"probe-{uuid.uuid4()}")), ("_count", "1")])
            if found:
                self._say("nonsense matches nothing", expected=True, found=False)
                return
        self._say("nonsense matches nothing", expected=True, found=True)

    async def _validate(self) -> None:
        """Has it $validate? Nothing is stored by asking."""
        answer = await self._send("POST", f"{_TYPE}/$validate", self._observation(_key()), None)
        there = (answer.resource() or {}).get("resourceType") == "OperationOutcome" and answer.status not in (404, 405, 501)
        self._cell("reads.validate_operation", self.target.vendor.reads.validate_operation.value, there)

    async def _create(self) -> None:
        create, key = self.target.vendor.create, _key()
        first = await self._post(key)
        again = await self._post(key)
        began = time.monotonic()
        made = await self._look(key)
        if first.status not in (200, 201):
            raise _Inconclusive(f"a create is answered {first.status}")
        self._cell("create.answers_body", create.answers_body.value, (first.resource() or {}).get("resourceType") == _TYPE)
        self._cell("answers.etag", self.target.vendor.answers.etag.value, "etag" in first.headers)
        kept = bool(made) and bears(made[0], self.system, key)
        self._cell("create.keeps_identifier", create.keeps_identifier.value, kept)
        if kept:
            held = len(made) == 1 and again.status in (200, 201)
            expected = create.precondition.value
            said = None if expected is None else "if_none_exist" if expected == "if_none_exist" else "none"
            self._cell("create.precondition", said, "if_none_exist" if held else "none")
            self._cell("reads.search_lag_s", self.target.vendor.reads.search_lag_s.value, round(time.monotonic() - began))
        if made:
            history = await self.ehr.read(_TYPE, f"{made[0]['id']}/_history")
            shown = history.status == 200 and (history.resource() or {}).get("resourceType") == "Bundle"
            self._cell("reads.history", self.target.vendor.reads.history.value, shown)

    async def _race(self) -> None:
        """Many at once with one key: is a conditional create a mutex here?"""
        key = _key()
        answers = await asyncio.gather(*(self._post(key) for _ in range(RACERS)))
        losers = {a.status for a in answers} - {200, 201}
        made = await self._look(key)
        self._say("resources of a race", expected=None, found=len(made))
        if losers:
            self._cell("create.race_status", self.target.vendor.create.race_status.value, min(losers))

    async def _unknown_condition(self) -> None:
        answer = await self._post(_key(), condition="no-such-parameter=1")
        found = "creates" if answer.status == 201 else "refused"
        self._cell("create.unknown_condition", self.target.vendor.create.unknown_condition.value, found)

    async def _put(self) -> None:
        update = self.target.vendor.update
        made, etag = await self._standing()
        path, body = f"{_TYPE}/{made['id']}", {**made, "status": "amended"}
        right = await self._send("PUT", path, body, etag)
        if right.status not in (200, 201):
            raise _Inconclusive(f"a good PUT is answered {right.status}")
        stale = await self._send("PUT", path, {**body, "status": "corrected"}, etag)
        guarded = stale.status in (409, 412)
        expected = update.precondition.value
        said = None if expected is None else "if_match" if expected == "if_match" else "none"
        self._cell("update.precondition", said, "if_match" if guarded else "none")
        if guarded:
            self._cell("update.stale_status", update.stale_status.value, stale.status)
        missing = await self._send("PUT", path, body, None)
        self._cell("update.required", update.required.value, missing.status >= 400)

    async def _patch(self) -> None:
        made, etag = await self._standing()
        path = f"{_TYPE}/{made['id']}"

        def to(status: str) -> list[dict[str, Any]]:
            return [{"op": "replace", "path": "/status", "value": status}]

        right = await self._send("PATCH", path, to("amended"), etag, JSON_PATCH)
        if right.status not in (200, 204):
            self._cell("update.patch", self._types(self.target.vendor.update.patch.value), False)
            return
        self._cell("update.patch", self._types(self.target.vendor.update.patch.value), True)
        self._cell("answers.patch_etag", self.target.vendor.answers.patch_etag.value, "etag" in right.headers)
        stale = await self._send("PATCH", path, to("corrected"), etag, JSON_PATCH)
        self._cell("update.patch_precondition", self.target.vendor.update.patch_precondition.value, stale.status in (409, 412))
        failing = await self._send(
            "PATCH", path, [{"op": "test", "path": "/status", "value": "x"}, *to("final")], None, JSON_PATCH
        )
        self._say("a failing test refuses a patch", expected=True, found=failing.status >= 400)

    async def _transaction(self) -> None:
        """One good entry beside one that no server can take: does the good one stay?"""
        key = _key()
        good = {"resource": self._observation(key), "request": {"method": "POST", "url": _TYPE}}
        bad = {"resource": {"resourceType": "NoSuchType"}, "request": {"method": "POST", "url": "NoSuchType"}}
        body = {"resourceType": "Bundle", "type": "transaction", "entry": [good, bad]}
        answer = await self._send("POST", "", body, None)
        kinds = self.target.vendor.bundles.kinds.value
        if answer.status in (405, 501):
            self._cell("bundles.kinds", None if kinds is None else "transaction" in kinds, False)
            return
        self._cell("bundles.atomic", self.target.vendor.bundles.atomic.value, not await self._look(key, patient=False))

    async def _standing(self) -> tuple[Resource, str]:
        answer = await self._post(_key())
        made = answer.resource()
        if made is None or not isinstance(made.get("id"), str) or "etag" not in answer.headers:
            raise _Inconclusive("a create shows neither resource nor ETag")
        return made, answer.headers["etag"]

    async def _post(self, key: str, condition: str | None = None) -> Answer:
        headers = {"If-None-Exist": condition or if_none_exist(self.system, key)}
        return await self._send("POST", _TYPE, self._observation(key), None, FHIR_JSON, headers)

    async def _send(
        self, method: str, path: str, body: Any, etag: str | None, kind: str = FHIR_JSON, headers: dict[str, str] | None = None
    ) -> Answer:
        whole = {"Content-Type": kind, "Prefer": "return=representation", **(headers or {})} | (
            {"If-Match": etag} if etag else {}
        )
        answer = await self.ehr.send(method, path, whole, canonicaljson.encode(body))
        made = answer.resource()
        for one in [made or {}, *(entry.get("resource") or {} for entry in dicts((made or {}).get("entry")))]:
            if isinstance(one, dict) and one.get("resourceType") == _TYPE and isinstance(one.get("id"), str):
                self._made.add(one["id"])
        return answer

    async def _look(self, key: str, *, patient: bool = True) -> list[Resource]:
        """What bears the key, looked for again for some seconds where nothing is found and something may be."""
        until = time.monotonic() + (LOOKS_FOR_S if patient else 0)
        while True:
            found = await self.ehr.search(_TYPE, [("identifier", token(self.system, key))])
            self._made.update(str(one["id"]) for one in found if bears(one, self.system, key))
            if found or time.monotonic() > until:
                return found
            await asyncio.sleep(0.5)

    async def _clean_up(self) -> None:
        """Delete what was made; what cannot be deleted is marked as entered in error, or told of."""
        for made in sorted(self._made):
            try:
                if (await self.ehr.send("DELETE", f"{_TYPE}/{made}")).status < 300:
                    continue
                now = await self.ehr.read(_TYPE, made)
                wrong = {**(now.resource() or {}), "status": "entered-in-error"}
                if (await self._send("PUT", f"{_TYPE}/{made}", wrong, now.headers.get("etag"))).status < 300:
                    continue
            except NoAnswer:
                pass
            self.left.append(f"{_TYPE}/{made}")

    def _observation(self, key: str) -> Resource:
        return {
            "resourceType": _TYPE,
            "identifier": [{"system": self.system, "value": key}],
            "status": "final",
            "code": {"text": "fhir-writeback probe"},
            "valueString": "probe",
        }

    def _types(self, value: tuple[str, ...] | None) -> bool | None:
        return None if value is None else bool({"*", _TYPE} & set(value))

    def _cell(self, cell: str, expected: Any, found: Any) -> None:
        self._say(cell, expected=expected, found=found)

    def _say(self, cell: str, *, expected: Any, found: Any) -> None:
        self.findings.append(Finding(cell, expected, found))


class _Inconclusive(Exception):
    """An experiment could not begin."""


def _key() -> str:
    return f"probe-{uuid.uuid4()}"
