"""The patient's chart as far as a first create must know it: who else has told of this fact already?"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import date, timedelta

from fhir_writeback_dagster.commit.adapters.generic import bears
from fhir_writeback_dagster.commit.client import Ehr
from fhir_writeback_dagster.commit.model import Item, Resource
from fhir_writeback_dagster.rules.natural_key import natural_key, same_fact

_Days = dict[str, list[Resource]]


class Chart:
    """One search a patient and type, kept for the run. ``system`` is ours: what bears it is known to the ledger."""

    def __init__(self, ehr: Ehr, system: str) -> None:
        self._ehr, self._system = ehr, system
        self._known: dict[tuple[str, str], asyncio.Task[_Days]] = {}

    async def alike(self, item: Item, *, fresh: bool = False) -> list[Resource]:
        """Resources of others that could tell of the same fact.

        :param fresh: search again; after a write without an answer, what was read before it proves nothing.
        :raises Unreadable: the chart could not be read.
        """
        key = natural_key(item.payload)
        if key is None:
            return []
        days = await self._read(item.patient_id, item.resource_type, fresh=fresh)
        return [r for day in _around(key[-1][:10]) for r in days.get(day, ()) if same_fact(item.payload, r)]

    def forget(self, patient_id: str) -> None:
        """Let go of a patient who is done."""
        for place in [place for place in self._known if place[0] == patient_id]:
            del self._known[place]

    async def _read(self, patient_id: str, resource_type: str, *, fresh: bool) -> _Days:
        place = (patient_id, resource_type)
        task = self._known.get(place)
        if task is None or fresh or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._known[place] = asyncio.create_task(self._search(patient_id, resource_type))
        return await task

    async def _search(self, patient_id: str, resource_type: str) -> _Days:
        days: _Days = defaultdict(list)
        async for page in self._ehr.pages(resource_type, [("patient", f"Patient/{patient_id}")]):
            for resource in page:
                key = None if bears(resource, self._system) else natural_key(resource)
                if key is not None:
                    days[key[-1][:10]].append(resource)
        return days


def _around(day: str) -> list[str]:
    """The day and its neighbours: the same instant can be written as another day in another zone."""
    try:
        middle = date.fromisoformat(day)
        return [day, (middle - timedelta(days=1)).isoformat(), (middle + timedelta(days=1)).isoformat()]
    except (ValueError, OverflowError):
        return [day]
