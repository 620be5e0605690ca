"""The mirror: what commit keeps of the EHR's patients, encounters, consents and capabilities, polled by ``_lastUpdated``, or
filled on demand (`commit.mirror_demand`) where the vendor's matrix says that the EHR does not list its patients.

Polling sees what is new and what changed. It does not see what was deleted, so the number of resources is compared after each
poll, and a difference brings a complete listing: a deleted consent counts within one refresh too. A server that does not count
gets its consents listed completely each time.

The dates that polling goes by are the EHR's claims. One resource that is dated in the future would hide all that changes until
then, so no date counts that lies after the EHR's own clock (its ``Date``). An import that keeps old dates is never among what is
newer, so every type is also listed completely at an interval: consents often enough for what ``consent.max_age`` promises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Self

from fhir_writeback_dagster.commit.fhir_client import FhirClient, open_ehr
from fhir_writeback_dagster.commit.ledger.async_database import AsyncDatabase
from fhir_writeback_dagster.commit.limits.rate_windows import RateLimiter
from fhir_writeback_dagster.commit.mirror import store
from fhir_writeback_dagster.commit.mirror.model import MirroredType, MirrorReport, mirrored
from fhir_writeback_dagster.commit.mirror.on_demand import OnDemand
from fhir_writeback_dagster.commit.mirror.rows import stamp
from fhir_writeback_dagster.commit.mirror.store import Refreshed, Sync
from fhir_writeback_dagster.commit.mirror.unreadable import kept_id, stand_in
from fhir_writeback_dagster.commit.protocol.changes import Evidence
from fhir_writeback_dagster.commit.protocol.defects import ends_the_run, report_defect
from fhir_writeback_dagster.errors import TargetError
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.orchestration.target import mirror_on_demand
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.rules.fhir.resource_url import server_of

OVERLAP = timedelta(minutes=5)
"""How far before the watermark a poll begins: a server may stamp a resource before others see it, and clocks differ."""


def refresh(run: RunContext, full: bool = False) -> MirrorReport:
    """Bring the tenant's mirror up to what its EHR says now; ``full`` reads everything again. One that is filled on demand and is
    young enough answers the lookups that are due, and nothing else.

    :raises TargetError: the EHR or its token endpoint refuses or does not answer. What was read until then is kept, the
        watermarks stay: the next refresh begins where the last complete one ended.
    """

    async def work() -> MirrorReport:
        async with AsyncDatabase(run) as db, open_ehr(run, RateLimiter(run, db)) as ehr:
            return await refresh_with(run, db, ehr, full=full, all_of_it=False)

    return asyncio.run(work())


async def refresh_with(
    run: RunContext, db: AsyncDatabase, ehr: FhirClient, *, full: bool = False, all_of_it: bool = True
) -> MirrorReport:
    """:func:`refresh` over open connections; ``all_of_it``: everything that the mirror holds, however young."""
    before = ehr.requests
    statement = await ehr.capability()
    await db.run(lambda connection: store.write_capability(connection, run, statement))
    if mirror_on_demand(run):
        report = await OnDemand(run, db, ehr).refresh(full=full, all_of_it=all_of_it)
        return replace(report, requests=ehr.requests - before)
    syncs = await db.run(lambda connection: store.read_sync(connection, run))
    reports = [await _Type(run, db, ehr, kind).refresh(syncs.get(kind), full=full) for kind in mirrored(run.tenant)]
    return MirrorReport(
        {r.kind: r.read for r in reports},
        {r.kind: r.changed for r in reports},
        {r.kind: r.gone for r in reports},
        tuple(r.kind for r in reports if r.complete),
        ehr.requests - before,
        defects=sum(r.defects for r in reports),
    )


class _Type:
    """The refresh of one resource type."""

    def __init__(self, run: RunContext, db: AsyncDatabase, ehr: FhirClient, kind: MirroredType) -> None:
        self.run, self.db, self.ehr, self.kind = run, db, ehr, kind
        self.read = self.changed = self.gone = 0
        self.complete = False
        self.defects = 0
        self.watermark: datetime | None = None

    async def refresh(self, sync: Sync | None, *, full: bool) -> Self:
        started = self.run.now()
        # What is known in its version is passed over, so only reading all again makes it known under another server's URLs.
        full = full or (sync is not None and sync.server != server_of(self.run.tenant.ehr.base_url))
        if full or sync is None or sync.watermark is None or sync.watermark > self._latest() or self._is_listing_due(sync):
            await self._list(again=full)
        else:
            await self._fetch([("_lastUpdated", f"ge{(sync.watermark - OVERLAP).isoformat()}")], again=False)
            if await self._something_is_gone():
                await self._list(again=False)
        changed = bool(self.changed or self.gone)
        done = Refreshed(started, changed=changed, listed=self.complete, watermark=self.watermark, latest=self._latest())
        await self.db.run(lambda connection: store.write_sync(connection, self.run, self.kind, done))
        return self

    def _latest(self) -> datetime:
        """From when on a date is none that the EHR can have set: by its own clock, or by ours where it does not tell."""
        return (self.ehr.date or self.run.now()) + timedelta(seconds=1)

    def _is_listing_due(self, sync: Sync) -> bool:
        """Would what polling does not see be older than is promised before the next refresh has looked?"""
        tenant = self.run.tenant
        every = tenant.ehr.mirror_complete_every
        if self.kind == "Consent":
            every = tenant.consent.max_age - tenant.ehr.mirror_every
        return sync.listed_at is None or not timedelta() <= self.run.now() - sync.listed_at < every

    async def _fetch(self, params: list[tuple[str, str]], *, again: bool) -> set[str]:
        """Read and keep every match; returns their ids."""
        seen: set[str] = set()
        began = self.run.now()
        async for page in self.ehr.pages(self.kind, params):
            self.read += len(page)
            seen.update(kept_id(resource["id"]) for resource in page)
            latest = self._latest()
            updated = [when for resource in page if (when := stamp(resource).last_updated) and when < latest]
            self.watermark = max([*updated, *([self.watermark] if self.watermark else [])], default=None)
            self.changed += await self._write(page, again=again, began=began)
        return seen

    async def _write(self, page: Sequence[Resource], *, again: bool, began: datetime) -> int:
        """Keep a page. What cannot be kept together is tried in halves, and in place of the one at fault stands its stand-in."""
        try:
            odd = next((one for one in page if one["id"] != kept_id(one["id"])), None)
            if odd is not None and len(page) > 1:
                rest = [one for one in page if one is not odd]
                return await self._write([odd], again=again, began=began) + await self._write(rest, again=again, began=began)
            if odd is not None:
                return await self._instead(odd, {"error": "id", "place": "not of R4's form"})
            write = partial(store.write_page, run=self.run, kind=self.kind, page=page, again=again, read_at=began)
            return await self.db.run(write)
        except Exception as error:
            if ends_the_run(error):
                raise
            if len(page) == 1:
                return await self._instead(page[0], report_defect(error))
            half = len(page) // 2
            first = await self._write(page[:half], again=again, began=began)
            return first + await self._write(page[half:], again=again, began=began)

    async def _instead(self, resource: Resource, evidence: Evidence) -> int:
        self.defects += 1
        instead = stand_in(self.run, self.kind, resource)
        write = partial(store.write_stand_in, run=self.run, kind=self.kind, instead=instead, evidence=evidence)
        return await self.db.run(write)

    async def _list(self, *, again: bool) -> None:
        """Read everything, and forget what is not there any more. A listing that falls short of the server's own count, also
        after what came while it ran, is a broken one and removes nothing.
        """
        began = self.run.now()
        since = (self.ehr.date or began) - OVERLAP
        seen = await self._fetch([], again=again)
        total = await self.ehr.count(self.kind)
        if total is not None and len(seen) < total:
            seen |= await self._fetch([("_lastUpdated", f"ge{since.isoformat()}")], again=False)
        if total is not None and len(seen) < total:
            raise TargetError(
                "incomplete_listing",
                f"the EHR counts {total} of {self.kind} and lists {len(seen)}",
                where=self.run.tenant.ehr.base_url,
                fix="nothing was removed from the mirror; the next refresh tries again",
            )
        remove = partial(store.remove_absent, run=self.run, kind=self.kind, present=sorted(seen), began=began)
        self.gone += await self.db.run(remove)
        self.complete = True

    async def _something_is_gone(self) -> bool:
        total = await self.ehr.count(self.kind)
        if total is None:
            return self.kind == "Consent"
        return total != await self.db.run(lambda connection: store.count_rows(connection, self.run, self.kind))
