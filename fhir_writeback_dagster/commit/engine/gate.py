"""The gate before the wire, and the group commit behind it.

Re-check and send marker are one transaction: between "it still may" and "we are sending it" nothing can happen. What many
requests have to write at the same moment goes into one transaction, because a commit costs the same for one row and for fifty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from psycopg import Connection

from fhir_writeback_dagster.commit.engine.recheck import Recheck
from fhir_writeback_dagster.commit.engine.recording import record
from fhir_writeback_dagster.commit.ledger.async_database import AsyncDatabase
from fhir_writeback_dagster.commit.limits import holds
from fhir_writeback_dagster.commit.protocol.changes import Change, Passed, Settled, Stop, after_defect, at_gate
from fhir_writeback_dagster.commit.protocol.defects import ends_the_run, report_defect
from fhir_writeback_dagster.commit.protocol.model import Claim, Intent
from fhir_writeback_dagster.commit.protocol.transitions import Action
from fhir_writeback_dagster.orchestration.run_context import RunContext
from fhir_writeback_dagster.rules.target.effective_limits import quiet_of


@dataclass(frozen=True, slots=True)
class Want:
    """An intent that is ready to go: ``result`` is what it becomes unless the re-check objects."""

    intent: Intent
    result: Passed | Settled


_Entry = Want | Change


@dataclass(slots=True)
class _Job:
    """What one caller wants to be written, one entry an intent."""

    entries: Sequence[_Entry]
    done: asyncio.Future[list[Change]]


@dataclass(slots=True)
class SendGate:
    """``lease_s``: seconds that a marked intent is held, longer than its request can take."""

    run: RunContext
    db: AsyncDatabase
    recheck: Recheck
    lease_s: float
    cap: int | None = None
    """Writes a day that need no person's release (`holds.cap`)."""
    held: bool = False
    """A person paused the target, a blackout began, or the cap is reached: nothing passes in this run any more."""
    mirror_too_old: bool = False
    """A re-check found the mirror older than the tenant allows: nothing passes until it is refreshed."""
    _jobs: list[_Job] = field(default_factory=list)
    _writer: asyncio.Task[None] | None = None

    async def pass_on(self, wants: Sequence[Want]) -> list[Change]:
        """Re-check ``wants`` and write what comes of it. Returns the steps that were made: only an item with a step into
        ``sending`` may be sent; one without any step is held by somebody else by now.

        :raises ServiceError: the database went away; nothing may be sent.
        """
        return await self._submit(wants, ())

    async def write(self, changes: Sequence[Change | None]) -> list[Change]:
        """Write steps that need no re-check. Returns those that were made.

        :raises ServiceError: the database went away; what was sent is looked up when its lease has run out.
        """
        return await self._submit((), [c for c in changes if c is not None])

    async def _submit(self, wants: Sequence[Want], changes: Sequence[Change]) -> list[Change]:
        if not wants and not changes:
            return []
        job = _Job([*wants, *changes], asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        return await job.done

    async def _write_all(self) -> None:
        """One transaction for all that waits; what comes meanwhile is the next one's."""
        while self._jobs:
            jobs, self._jobs = self._jobs, []
            try:
                made = await self._written([entry for job in jobs for entry in job.entries])
            except Exception as error:  # noqa: BLE001 - told to each of those who wait for it
                for job in jobs:
                    if not job.done.cancelled():
                        job.done.set_exception(error)
                continue
            for job in jobs:
                steps = [step for entry in job.entries if (step := made.get(entry.intent.claim))]
                for step in steps:
                    step.intent.now = step.after
                if not job.done.cancelled():
                    job.done.set_result(steps)

    async def _written(self, entries: Sequence[_Entry]) -> dict[Claim, Change]:
        """The steps that were made. One that cannot be decided on or recorded takes none of the others with it: what fails
        together is tried in halves, and the one at fault goes to a person.

        :raises ServiceError: the database went away.
        """
        try:
            return await self.db.run(partial(self._transaction, entries=entries))
        except Exception as error:
            if ends_the_run(error):
                raise
            if len(entries) == 1:
                return await self._given_up(entries[0], error)
            half = len(entries) // 2
            return {**await self._written(entries[:half]), **await self._written(entries[half:])}

    async def _given_up(self, entry: _Entry, error: Exception) -> dict[Claim, Change]:
        """A person gets what cannot be recorded, after a look if it was sent. Where not even that can be written the intent keeps
        its lease: when that has run out, what was not sent is taken up again and what may have been sent is looked for.
        """
        answered = entry.attempt if isinstance(entry, Change) else None
        quiet_s = quiet_of(self.run.tenant.ehr).total_seconds()
        instead = after_defect(entry.intent, report_defect(error, entry.intent), quiet_s, answered)
        try:
            return await self.db.run(partial(self._transaction, entries=[instead])) if instead else {}
        except Exception as worse:
            if ends_the_run(worse):
                raise
            report_defect(worse, entry.intent)
            return {}

    def _transaction(self, connection: Connection[Any], entries: Sequence[_Entry]) -> dict[Claim, Change]:
        # A run can have an intent in hand twice: its claim was freed while the database was away, and claimed anew. Only the
        # later claim is asked about; which steps count, `record` knows from the ledger.
        wants = sorted((e for e in entries if isinstance(e, Want)), key=lambda want: want.intent.now.fence)
        decided = self._decide(connection, list({want.intent.intent_id: want for want in wants}.values()))
        changes = [c for c in (decided.get(e.intent.claim) if isinstance(e, Want) else e for e in entries) if c]
        made = record(connection, self.run, changes, self.lease_s)
        if sent := sum(Action.TRANSMIT in c.actions for c in made):
            holds.count(connection, self.run, sent)
        return {c.intent.claim: c for c in made}

    def _decide(self, connection: Connection[Any], wants: Sequence[Want]) -> dict[Claim, Change | None]:
        if not wants:
            return {}
        if not self.recheck.mirror_is_young(connection):
            self.mirror_too_old = True
            return {want.intent.claim: at_gate(want.intent, Stop("mirror_too_old")) for want in wants}
        objections = self.recheck.objections(connection, [want.intent for want in wants])
        decided = {want.intent.claim: at_gate(want.intent, objections.get(want.intent.intent_id, want.result)) for want in wants}
        return decided | self._held_back(connection, [c for c in decided.values() if c and Action.TRANSMIT in c.actions])

    def _held_back(self, connection: Connection[Any], sending: Sequence[Change]) -> dict[Claim, Change | None]:
        """Those of ``sending`` that may not go now: the target is held back, or they are more than its cap lets through."""
        if not sending:
            return {}
        allowed = holds.allowance(connection, self.run, self.cap)
        self.held = allowed.stopped
        if allowed.stopped:
            return {c.intent.claim: at_gate(c.intent, Stop("held")) for c in sending}
        if allowed.left is None or allowed.left >= len(sending):
            return {}
        holds.hold(connection, self.run, "cap", None)
        self.held = True
        return {c.intent.claim: at_gate(c.intent, Stop("cap")) for c in sending[allowed.left :]}
