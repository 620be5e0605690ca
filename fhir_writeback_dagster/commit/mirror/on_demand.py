"""A mirror that is filled on demand: only those whom decide asks for, with their encounters and consents.

Many EHRs refuse to list their patients, encounters or consents, so every search here names whom it wants. A refresh asks the
lookups again that found somebody (a number may have a second bearer by now), reads everybody else whom the mirror holds, and
deletes the patients that nothing needs any more. Only a complete refresh moves the mirror's age (`mirror.sync`), which the
re-check before a send compares with the greatest age that the tenant allows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import structlog

from fhir_writeback_dagster.commit.adapters.search import token
from fhir_writeback_dagster.commit.fhir_client import FhirClient, Unreadable
from fhir_writeback_dagster.commit.ledger.async_database import AsyncDatabase
from fhir_writeback_dagster.commit.mirror import lookup_store, store
from fhir_writeback_dagster.commit.mirror.lookup_store import Answered, LookupOutcome, OpenLookup, Reading
from fhir_writeback_dagster.commit.mirror.model import MirroredType, MirrorReport, mirrored
from fhir_writeback_dagster.commit.mirror.rows import identifiers, linked
from fhir_writeback_dagster.commit.mirror.store import Refreshed
from fhir_writeback_dagster.commit.protocol.defects import ends_the_run, report_defect
from fhir_writeback_dagster.commit.protocol.error_classes import ErrorClass, Recovery
from fhir_writeback_dagster.commit.protocol.identity import bears
from fhir_writeback_dagster.commit.protocol.searchset import HALF_ANSWERS
from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.fhir.references import referenced
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.rules.fhir.resource_url import server_of

MOST_FOUND = 20
"""A lookup that finds more patients tells nobody apart, and none of them is taken."""
PATIENTS_A_SEARCH = 20
"""In one search, where the EHR takes batches; one that does not may not know a list of values either."""
_FAR_ENOUGH = 5
"""Merges that are followed in one reading; the next refresh goes on."""
_DETAILS: dict[MirroredType, str] = {"Encounter": "subject", "Consent": "patient"}
"""The element that names the patient."""


class OnDemand:
    """One refresh of one tenant's mirror."""

    def __init__(self, run: RunContext, db: AsyncDatabase, ehr: FhirClient) -> None:
        self._run, self._db, self._ehr = run, db, ehr
        self._size = min(run.tenant.ehr.bundle_size, PATIENTS_A_SEARCH)
        self._turns = asyncio.Semaphore(run.tenant.ehr.concurrency)
        self._details: list[MirroredType] = [kind for kind in mirrored(run.tenant) if kind != "Patient"]
        self._read: Counter[str] = Counter()
        self._changed: Counter[str] = Counter()
        self._gone: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._seen: set[str] = set()
        self._refusal: Unreadable | None = None
        self._refused = self._defects = 0
        self._news = self._again = False

    async def refresh(self, *, full: bool, all_of_it: bool) -> MirrorReport:
        """Answer the lookups that are due, and bring all that the mirror holds up to date unless it is young and lookups are all
        that is wanted. ``full`` writes it all anew.

        :raises TargetError: the EHR does not answer, or refuses everybody of several who were asked for. What was read until then
            is kept.
        """
        started, self._again = self._run.now(), full or await self._has_moved()
        due = await self._db.run(partial(lookup_store.read_lookups, run=self._run, all_of_them=False))
        everything = self._again or all_of_it or not due or await self._is_old(started)
        dropped = 0
        if everything:
            dropped = await self._db.run(partial(lookup_store.forget, run=self._run))
            due = await self._db.run(partial(lookup_store.read_lookups, run=self._run, all_of_them=True))
        try:
            await self._each(partial(self._answer, group) for group in self._groups(due))
            if everything:
                held = await self._db.run(partial(lookup_store.wanted, run=self._run))
                rest = [patient for patient in held if patient not in self._seen]
                await self._each(partial(self._bring, ids) for ids in _split(rest, self._size))
        finally:
            if self._news:
                await self._db.run(partial(lookup_store.tell_news, run=self._run))
        if self._refusal is not None and self._refused > 1 and not self._seen:
            raise self._refusal
        if everything:
            await self._complete(started)
        return MirrorReport(
            self._read,
            self._changed,
            self._gone,
            lookups=self._outcomes,
            dropped=dropped,
            refused=self._refused,
            defects=self._defects,
        )

    async def _is_old(self, now: datetime) -> bool:
        syncs = await self._db.run(lambda connection: store.read_sync(connection, self._run))
        every = self._run.tenant.ehr.mirror_every
        return any(kind not in syncs or now - syncs[kind].refreshed_at >= every for kind in mirrored(self._run.tenant))

    async def _has_moved(self) -> bool:
        """Is what the mirror holds known under another server's URLs? What is known in its version would be passed over."""
        syncs = await self._db.run(lambda connection: store.read_sync(connection, self._run))
        server = server_of(self._run.tenant.ehr.base_url)
        return any(sync.server != server for sync in syncs.values())

    async def _complete(self, started: datetime) -> None:
        for kind in mirrored(self._run.tenant):
            done = Refreshed(started, changed=self._news, listed=True)
            await self._db.run(partial(store.write_sync, run=self._run, kind=kind, done=done))

    async def _each(self, work: Iterable[Callable[[], Awaitable[None]]]) -> None:
        """A few at once; the first failure ends them all."""

        async def in_turn(one: Callable[[], Awaitable[None]]) -> None:
            async with self._turns:
                await one()

        try:
            async with asyncio.TaskGroup() as group:
                for one in work:
                    group.create_task(in_turn(one))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    def _groups(self, lookups: Sequence[OpenLookup]) -> list[list[OpenLookup]]:
        """Identifiers together, as many as a search may name; the others each by itself."""
        numbers = [one for one in lookups if "identifier" in one.search]
        return [*_split(numbers, self._size), *([one] for one in lookups if "identifier" not in one.search)]

    async def _answer(self, lookups: Sequence[OpenLookup]) -> None:
        """Look somebody up, and keep who is found with all that is theirs. Where the EHR refuses several, each goes by itself."""
        since = self._run.now()
        try:
            answers, patients, ids = await self._find(lookups)
            reading = await self._reading(since, patients, ids)
            await self._keep(reading, [_without(answer, reading.gone) for answer in answers])
        except Exception as error:  # noqa: BLE001 - `_tolerate` raises what is not theirs
            self._tolerate(error)
            if len(lookups) > 1:
                for one in lookups:
                    await self._answer([one])
                return
            self._refused += 1
            await self._keep(Reading(since), [Answered(lookups[0], "refused")])

    async def _find(self, lookups: Sequence[OpenLookup]) -> tuple[list[Answered], list[Resource], set[str]]:
        """The answers, with the resources found or the ids that are to be read."""
        first = lookups[0].search
        if named := first.get("patient") or first.get("encounters_of"):
            return [Answered(lookups[0], "found", [named])], [], {named}
        if "identifier" in first:
            found, whole = await self._search(
                [("identifier", ",".join(token(*one.search["identifier"]) for one in lookups))], len(lookups)
            )
            bearers = [[r for r in found if bears(r, *one.search["identifier"])] for one in lookups]
        else:
            found, whole = await self._search([("family", first["family"]), ("birthdate", first["birth_date"])], 1)
            bearers = [[r for r in found if r.get("birthDate") == first["birth_date"]]]
        odd = len({r["id"] for some in bearers for r in some}) < len(found)
        pairs = list(zip(lookups, bearers, strict=True))
        # A server that knows no lists of values finds nobody, or everybody: each that it did not find is asked for alone.
        alone = [] if len(lookups) == 1 else [one for one, some in pairs if odd or not whole or not some]
        each = [await self._find([one]) for one in alone]
        answers = [_answered(one, some, odd=odd, whole=whole) for one, some in pairs if one not in alone]
        taken = {id_ for answer in answers for id_ in answer.found}
        return (
            [*answers, *(answer for theirs, _, _ in each for answer in theirs)],
            [*(r for r in found if r["id"] in taken), *(r for _, some, _ in each for r in some)],
            set(),
        )

    async def _search(self, params: list[tuple[str, str]], lookups: int) -> tuple[list[Resource], bool]:
        """Patients, up to more than ``lookups`` may find; are these all?"""
        most = MOST_FOUND * lookups
        found: dict[str, Resource] = {}
        async for page in self._ehr.pages("Patient", params, count=most + 1):
            self._read["Patient"] += len(page)
            found.update((resource["id"], resource) for resource in page)
            if len(found) > most:
                return list(found.values()), False
        return list(found.values()), True

    async def _bring(self, ids: Sequence[str]) -> None:
        """Read patients by their ids, with all that is theirs. Whom the EHR refuses to show is not held any longer."""
        since = self._run.now()
        try:
            await self._keep(await self._reading(since, [], set(ids)), [])
        except Exception as error:  # noqa: BLE001 - `_tolerate` raises what is not theirs
            self._tolerate(error)
            if len(ids) > 1:
                for one in ids:
                    await self._bring([one])
                return
            self._refused += 1
            await self._keep(Reading(since, gone=set(ids)), [])

    def _tolerate(self, error: Exception) -> None:
        """A reading came to nothing: refused, or met by a defect of ours.

        :raises TargetError: it is no refusal of these patients, but a target that does not work now.
        :raises ServiceError: the database went away.
        """
        if not isinstance(error, Unreadable):
            if isinstance(error, TargetError) or ends_the_run(error):
                raise error
            report_defect(error)
            self._defects += 1
            return
        of_these = error.outcome.recovery in (Recovery.QUARANTINE, Recovery.ESCALATE) or error.outcome.code in HALF_ANSWERS
        if not of_these:
            raise error
        structlog.get_logger().warning("a lookup was refused", code=error.code)
        self._refusal = error

    async def _reading(self, since: datetime, found: Sequence[Resource], ids: set[str]) -> Reading:
        """``found``, the patients of ``ids``, and those whom merges tie to them; with encounters and consents."""
        reading = Reading(since, {resource["id"]: resource for resource in found})
        wanted, fresh = ids - reading.patients.keys(), list(found)
        for _ in range(_FAR_ENOUGH):
            if wanted:
                fresh += await self._by_id(wanted)
                reading.patients |= {resource["id"]: resource for resource in fresh}
                reading.gone |= wanted - reading.patients.keys()
            wanted = await self._tied(fresh) - reading.patients.keys() - reading.gone
            fresh = []
            if not wanted:
                break
        for kind in self._details:
            # A server that knows no lists of values would seem to have no consents: those are never asked for in lists.
            some = _split(sorted(reading.patients), 1 if kind == "Consent" else self._size)
            reading.details[kind] = [resource for patients in some for resource in await self._of(kind, patients)]
        return reading

    async def _tied(self, patients: Sequence[Resource]) -> set[str]:
        """Survivors of ``patients``, and whom the mirror has dropped and who may have been merged into one of them since."""
        if not patients:
            return set()
        bases = self._ehr.bases
        survivors = {id_ for p in patients for id_ in linked(p, bases, "replaced-by")}
        digest = self._run.identity.digest
        digests = {digest("identifier", *pair) for p in patients for pair in identifiers(p, self._ehr.base_url, old=True)}
        replaced = {id_ for p in patients for id_ in linked(p, bases, "replaces")}
        return survivors | await self._db.run(partial(lookup_store.former, run=self._run, digests=digests, linked=replaced))

    async def _by_id(self, ids: set[str]) -> list[Resource]:
        """Those of ``ids`` whom the EHR has; whom a search does not bring is read, because an index may lag."""
        found: list[Resource] = []
        if self._size > 1 and len(ids) > 1:
            for some in _split(sorted(ids), self._size):
                found += [r for r in await self._ehr.search("Patient", [("_id", ",".join(some))]) if r["id"] in ids]
        for one in sorted(ids - {resource["id"] for resource in found}):
            resource = await self._ehr.get("Patient", one)
            found += [resource] if resource else []
        self._read["Patient"] += len(found)
        return found

    async def _of(self, kind: MirroredType, patients: Sequence[str]) -> list[Resource]:
        """The patients' encounters or consents. One that does not say whose it is belongs to whom it was asked for, unless the
        answer holds those of others too: then the EHR has not looked at whom it was asked for.

        :raises Unreadable: it has not, and nobody can tell whose one of them is.
        """
        found = await self._ehr.search(kind, [("patient", ",".join(f"Patient/{patient}" for patient in patients))])
        element = _DETAILS[kind]
        whose = [referenced(resource.get(element), "Patient", self._ehr.bases) for resource in found]
        if None in whose and len(patients) > 1:
            return [resource for patient in patients for resource in await self._of(kind, [patient])]
        if None in whose and not set(whose) <= {None, *patients}:
            unclear = ErrorClass("unreliable_search", Recovery.QUARANTINE)
            raise Unreadable(unclear, f"searching {kind} by patient", self._ehr.base_url)
        theirs = [
            resource if owner else {**resource, element: {"reference": f"Patient/{patients[0]}"}}
            for resource, owner in zip(found, whose, strict=True)
            if owner in patients or owner is None
        ]
        self._read[kind] += len(theirs)
        return theirs

    async def _keep(self, reading: Reading, answers: Sequence[Answered]) -> None:
        write = partial(lookup_store.keep, run=self._run, reading=reading, answers=answers, again=self._again)
        changed, gone = await self._db.run(write)
        self._changed.update(changed)
        self._gone.update(gone)
        self._outcomes.update(answer.outcome for answer in answers)
        self._seen |= reading.patients.keys()
        news = any(changed.values()) or any(gone.values()) or any(a.outcome != a.lookup.outcome for a in answers)
        self._news = self._news or news


def _answered(lookup: OpenLookup, bearers: Sequence[Resource], *, odd: bool, whole: bool) -> Answered:
    """``odd``: something came that was not searched for: where nothing else did, or too much, the server knows no such search."""
    outcome: LookupOutcome
    if odd and not (bearers and whole):
        outcome = "unreliable"
    elif len(bearers) > MOST_FOUND or not whole:
        outcome = "too_many"
    else:
        outcome = "found" if bearers else "none"
    return Answered(lookup, outcome, [r["id"] for r in bearers] if outcome == "found" else [])


def _without(answer: Answered, gone: Collection[str]) -> Answered:
    left = [id_ for id_ in answer.found if id_ not in gone]
    return Answered(answer.lookup, "found" if left else "none", left) if answer.outcome == "found" else answer


def _split(some: Sequence[Any], size: int) -> list[list[Any]]:
    return [list(some[at : at + size]) for at in range(0, len(some), size)]
