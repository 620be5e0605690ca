"""Asking a target what it really does: each question is one small experiment, and its answer stands beside the matrix's cell.

Reads are harmless and run anywhere. What has to be written to be known is written to sandboxes only: Observations without a
patient, under an identifier of their own, taken back at the end (`commit.probe_traces`).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fhir_writeback_dagster.commit.adapters.generic import JSON_PATCH
from fhir_writeback_dagster.commit.adapters.search import if_none_exist, token
from fhir_writeback_dagster.commit.fhir_client import FhirClient, Unreadable
from fhir_writeback_dagster.commit.http.transport import NoAnswer
from fhir_writeback_dagster.commit.probe.traces import TYPE, Traces, created_id, guard_of
from fhir_writeback_dagster.commit.protocol.answer import Answer, dicts
from fhir_writeback_dagster.commit.protocol.identity import bears
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.rules.target.capabilities import Target

RACERS = 8
A_SECOND = 1.1
"""``Last-Modified`` tells no two versions of one second apart."""
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
_DECISIVE = frozenset({"nonsense", "create", "put"})
"""Experiments without whose answer nothing is known of what writing relies on."""
_PROMISES_NOTHING = frozenset({"none", "search"})


@dataclass(frozen=True, slots=True)
class ProbeFinding:
    """One cell: what the matrix says, what the target did. ``expected`` None: the matrix does not know."""

    cell: str
    expected: Any
    found: Any

    @property
    def differs(self) -> bool:
        return self.expected is not None and self.expected != self.found

    @property
    def breaking(self) -> bool:
        """Does it less than is promised? More than that is a difference, and no danger."""
        return self.differs and self.cell in _UNSAFE and _promises(self.expected) and not _promises(self.found)

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

    ehr: FhirClient
    target: Target
    system: str
    findings: list[ProbeFinding] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    """``<experiment>: <why>`` of those that came to no answer: the target refused or did not answer what they begin with."""
    traces: Traces = field(init=False)

    def __post_init__(self) -> None:
        self.traces = Traces(self.ehr, self.system)

    async def run(self, *, write: bool) -> None:
        """:raises TargetError: no token could be had."""
        await self._try(self._nonsense)
        if not write:
            return
        await self._try(self._validate)
        if self.target.own_api(TYPE) or self.target.refusal(TYPE, "create"):
            self.unanswered.append(f"create: the matrix or the CapabilityStatement lets no {TYPE} be created over FHIR")
            return
        try:
            for experiment in (self._create, self._race, self._unknown_condition, self._put, self._patch, self._transaction):
                await self._try(experiment)
        finally:
            await self.traces.clean_up()

    async def _try(self, experiment: Callable[[], Awaitable[None]]) -> None:
        try:
            await experiment()
        except (NoAnswer, Unreadable, _Inconclusive) as error:
            self.unanswered.append(f"{experiment.__name__.strip('_')}: {getattr(error, 'code', error)}")

    async def _nonsense(self) -> None:
        """An identifier that nobody has matches nothing: a server that ignores the parameter would match everything."""
        for name in ("Patient", TYPE):
            if await self.traces.first_page(name, [("identifier", token(self.system, f"probe-{uuid.uuid4()}"))], 1):
                self._say("nonsense matches nothing", expected=True, found=False)
                return
        self._say("nonsense matches nothing", expected=True, found=True)

    async def _validate(self) -> None:
        """Has it $validate? Nothing is stored by asking."""
        answer = await self.traces.send("POST", f"{TYPE}/$validate", self.traces.observation(self.traces.key()))
        there = (answer.resource() or {}).get("resourceType") == "OperationOutcome" and answer.status not in (404, 405, 501)
        self._say("reads.validate_operation", expected=self.target.vendor.reads.validate_operation.value, found=there)

    async def _create(self) -> None:
        create, key = self.target.vendor.create, self.traces.key()
        first = await self._post(key)
        again = await self._post(key)
        made = await self.traces.look(key)
        if first.status not in (200, 201):
            raise _Inconclusive(f"a create is answered {first.status}")
        shown = (first.resource() or {}).get("resourceType") == TYPE
        self._say("create.answers_body", expected=create.answers_body.value, found=shown)
        self._say("answers.etag", expected=self.target.vendor.answers.etag.value, found="etag" in first.headers)
        kept = bool(made) and bears(made[0], self.system, key)
        self._say("create.keeps_identifier", expected=create.keeps_identifier.value, found=kept)
        self._repeated(first, again, made)
        if kept:
            lag = self.target.vendor.reads.search_lag_s.value
            self._say("reads.search_lag_s", expected=lag, found=round(self.traces.lag_s))
        if made:
            history = await self.ehr.read(TYPE, f"{made[0]['id']}/_history")
            shown = history.status == 200 and (history.resource() or {}).get("resourceType") == "Bundle"
            self._say("reads.history", expected=self.target.vendor.reads.history.value, found=shown)

    def _repeated(self, first: Answer, again: Answer, made: list[Resource]) -> None:
        """Did the same create under the same key come to one resource? Where none is found by the key, the ids tell."""
        way = self.target.vendor.create.precondition.value
        told = "none" if way == "search" else way
        same = created_id(first) is not None and created_id(first) == created_id(again)
        if made:
            same = len(made) == 1 and again.status in (200, 201, *((409,) if self._by_key else ()))
        elif created_id(again) is None:
            raise _Inconclusive("nothing shows what a repeated create came to")
        held = "idempotency_key" if self._by_key else "if_none_exist"
        self._say("create.precondition", expected=told, found=held if same else "none")

    async def _race(self) -> None:
        """Many at once with one key: is a conditional create a mutex here?"""
        key = self.traces.key()
        answers = await asyncio.gather(*(self._post(key) for _ in range(RACERS)))
        losers = {a.status for a in answers} - {200, 201}
        made = await self.traces.look(key)
        self._say("resources of a race", expected=None, found=len(made))
        if losers:
            self._say("create.race_status", expected=self.target.vendor.create.race_status.value, found=min(losers))

    async def _unknown_condition(self) -> None:
        answer = await self._post(self.traces.key(), condition="no-such-parameter=1")
        found = {201: "creates", 200: "matches"}.get(answer.status, "refused")
        self._say("create.unknown_condition", expected=self.target.vendor.create.unknown_condition.value, found=found)

    async def _put(self) -> None:
        update = self.target.vendor.update
        made, shown = await self._standing()
        path, body = f"{TYPE}/{made['id']}", {**made, "status": "amended"}
        right = await self.traces.send("PUT", path, body, await self._guard(shown))
        if right.status not in (200, 201):
            if self._types(update.put.value) is not False:
                raise _Inconclusive(f"a good PUT is answered {right.status}")
            self._say("update.put", expected=False, found=False)
            return
        guard = await self._guard(shown)
        stale = await self.traces.send("PUT", path, {**body, "status": "corrected"}, guard)
        held = bool(guard) and stale.status in (409, 412)
        way = "if_match" if "If-Match" in guard else "if_unmodified_since"
        self._say("update.precondition", expected=update.precondition.value, found=way if held else "none")
        if held:
            self._say("update.stale_status", expected=update.stale_status.value, found=stale.status)
        missing = await self.traces.send("PUT", path, body)
        self._say("update.required", expected=update.required.value, found=missing.status >= 400)

    async def _patch(self) -> None:
        made, shown = await self._standing()
        path = f"{TYPE}/{made['id']}"

        async def send(steps: list[dict[str, Any]], guard: dict[str, str]) -> Answer:
            return await self.traces.send("PATCH", path, steps, {**guard, "Content-Type": JSON_PATCH})

        def to(status: str) -> list[dict[str, Any]]:
            return [{"op": "replace", "path": "/status", "value": status}]

        right = await send(to("amended"), await self._guard(shown))
        taken = right.status in (200, 204)
        self._say("update.patch", expected=self._types(self.target.vendor.update.patch.value), found=taken)
        if not taken:
            return
        self._say("answers.patch_etag", expected=self.target.vendor.answers.patch_etag.value, found="etag" in right.headers)
        stale = await send(to("corrected"), await self._guard(shown))
        heeded = self.target.vendor.update.patch_precondition.value
        self._say("update.patch_precondition", expected=heeded, found=stale.status in (409, 412))
        now = await self._guard(await self.ehr.read(TYPE, made["id"]))
        failing = await send([{"op": "test", "path": "/status", "value": "x"}, *to("final")], now)
        self._say("a failing test refuses a patch", expected=True, found=failing.status >= 400)

    async def _transaction(self) -> None:
        """One good entry beside one that can only fail when it is processed: does the good one stay?"""
        kinds = self.target.vendor.bundles.kinds.value
        for bad in (await self._stale_entry(), self._dangling_entry()):
            key = self.traces.key()
            good = {"resource": self.traces.observation(key), "request": {"method": "POST", "url": TYPE}}
            answer = await self.traces.send("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": [good, bad]})
            if answer.status in (405, 501):
                self._say("bundles.kinds", expected=None if kinds is None else "transaction" in kinds, found=False)
                return
            if answer.status < 400 and not _refuses_one(answer):
                continue  # it took both: nothing is known yet
            if answer.status >= 400 and not self._keeps_identifier:
                raise _Inconclusive("what it would have stored cannot be found")
            there = answer.status < 400 or bool(await self.traces.look(key, patient=False))
            self._say("bundles.atomic", expected=self.target.vendor.bundles.atomic.value, found=not there)
            return
        raise _Inconclusive("no entry of a transaction is refused")

    async def _stale_entry(self) -> dict[str, Any]:
        """An update of what somebody changed meanwhile."""
        made, shown = await self._standing()
        path, body = f"{TYPE}/{made['id']}", {**made, "status": "amended"}
        await self.traces.send("PUT", path, body, await self._guard(shown))
        condition = {"ifMatch": shown.headers["etag"]} if "etag" in shown.headers else {}
        return {"resource": {**body, "status": "corrected"}, "request": {"method": "PUT", "url": path, **condition}}

    def _dangling_entry(self) -> dict[str, Any]:
        """A create whose conditional reference nobody fits (R4, http.html, transaction: it has to fail)."""
        nobody = {"reference": f"Patient?{if_none_exist(self.system, f'probe-{uuid.uuid4()}')}"}
        resource = {**self.traces.observation(self.traces.key()), "subject": nobody}
        return {"resource": resource, "request": {"method": "POST", "url": TYPE}}

    async def _standing(self) -> tuple[Resource, Answer]:
        """A resource of ours, and the answer that shows it with what guards its updates."""
        answer = await self._post(self.traces.key())
        made = answer.resource()
        if answer.status == 201 and (made is None or not guard_of(answer)) and (there := created_id(answer)):
            answer = await self.ehr.read(TYPE, there)
            made = answer.resource()
        elif answer.status != 201 and not (made and self.traces.is_ours(made)):
            raise _Inconclusive(f"a create is answered {answer.status}, and shows nothing of ours")
        if made is None or made.get("resourceType") != TYPE or not isinstance(made.get("id"), str):
            raise _Inconclusive("a create shows no resource")
        return made, answer

    async def _guard(self, shown: Answer) -> dict[str, str]:
        guard = guard_of(shown, by_time=self.target.vendor.update.precondition.value == "if_unmodified_since")
        if "If-Unmodified-Since" in guard:
            await asyncio.sleep(A_SECOND)
        return guard

    async def _post(self, key: str, condition: str | None = None) -> Answer:
        headers = {"If-None-Exist": condition or if_none_exist(self.system, key)}
        if condition is None and self._by_key:
            header = self.target.vendor.create.idempotency_header.get("Idempotency-Key")
            headers = {header: str(uuid.uuid5(uuid.NAMESPACE_URL, key))}
        return await self.traces.send("POST", TYPE, self.traces.observation(key), headers)

    @property
    def _by_key(self) -> bool:
        return self.target.vendor.create.precondition.value == "idempotency_key"

    @property
    def _keeps_identifier(self) -> bool:
        return any(one.cell == "create.keeps_identifier" and one.found for one in self.findings)

    @property
    def unproven(self) -> bool:
        """Has an experiment had no answer that says whether writing is safe?"""
        return any(one.partition(":")[0] in _DECISIVE for one in self.unanswered)

    def _types(self, value: tuple[str, ...] | None) -> bool | None:
        return None if value is None else bool({"*", TYPE} & set(value))

    def _say(self, cell: str, *, expected: Any, found: Any) -> None:
        self.findings.append(ProbeFinding(cell, expected, found))


class _Inconclusive(Exception):
    """An experiment could not begin."""


def _promises(value: object) -> bool:
    return value not in _PROMISES_NOTHING if isinstance(value, str) else bool(value)


def _refuses_one(answer: Answer) -> bool:
    """Is an entry of a transaction's answer an error? R4 wants the whole refused; there are servers that do it by entry."""
    responses = [entry.get("response") for entry in dicts((answer.resource() or {}).get("entry"))]
    return any(isinstance(one, dict) and str(one.get("status", ""))[:1] in ("4", "5") for one in responses)
