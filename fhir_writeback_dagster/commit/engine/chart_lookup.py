"""The patients' chart as far as a first create must know it: who else has told of this fact already?"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date, timedelta

from fhir_writeback_dagster.commit.adapters.search import bears
from fhir_writeback_dagster.commit.fhir_client import FhirClient
from fhir_writeback_dagster.commit.protocol.model import Intent
from fhir_writeback_dagster.commit.protocol.references import referenced
from fhir_writeback_dagster.rules.fhir.natural_key import natural_key, same_fact
from fhir_writeback_dagster.rules.fhir.resource import Resource

_ByDay = dict[tuple[str, str], list[Resource]]
"""Patient id and day of the natural key → resources."""


class ChartLookup:
    """One search a type and a few patients, kept while they are worked on.

    :param system: our own identifier system: what bears it is known to the ledger, and left out.
    :param patients: how many patients one search may name.
    """

    def __init__(self, ehr: FhirClient, system: str, patients: int = 1) -> None:
        self._ehr, self._system, self._patients = ehr, system, patients
        self._known: dict[tuple[str, str], asyncio.Task[_ByDay]] = {}

    def expect(self, items: Iterable[Intent]) -> None:
        """These will be asked for: begin to read what is not known yet, several patients in one search."""
        wanted: dict[str, set[str]] = defaultdict(set)
        for item in items:
            if not self._is_known(item.patient_id, item.resource_type):
                wanted[item.resource_type].add(item.patient_id)
        for resource_type, patients in wanted.items():
            listed = sorted(patients)
            for some in (listed[at : at + self._patients] for at in range(0, len(listed), self._patients)):
                task = asyncio.create_task(self._search(some, resource_type))
                self._known.update(((patient, resource_type), task) for patient in some)

    async def alike(self, item: Intent, *, fresh: bool = False) -> list[Resource]:
        """Resources of others in the patient's chart that could tell of the same fact.

        :param fresh: search again; after a write without an answer, what was read before it proves nothing.
        :raises Unreadable: the chart could not be read.
        """
        key = natural_key(item.payload)
        if key is None:
            return []
        if fresh:
            self._known.pop((item.patient_id, item.resource_type), None)
        self.expect([item])
        found = await self._known[item.patient_id, item.resource_type]
        near = (r for day in _around(key[-1][:10]) for r in found.get((item.patient_id, day), ()))
        return [r for r in near if same_fact(item.payload, r)]

    def forget(self, patients: Iterable[str]) -> None:
        """Let go of patients who are done."""
        done = set(patients)
        for place in [place for place in self._known if place[0] in done]:
            del self._known[place]

    def _is_known(self, patient_id: str, resource_type: str) -> bool:
        task = self._known.get((patient_id, resource_type))
        return task is not None and not (task.done() and (task.cancelled() or task.exception() is not None))

    async def _search(self, patients: Sequence[str], resource_type: str) -> _ByDay:
        """Whose a resource is is read from it; one that does not say counts for every patient who was asked for."""
        found: _ByDay = defaultdict(list)
        params = [("patient", ",".join(f"Patient/{patient}" for patient in patients))]
        async for page in self._ehr.pages(resource_type, params):
            for resource in page:
                key = None if bears(resource, self._system) else _key(resource)
                if key is None:
                    continue
                whose = referenced(resource.get("subject", resource.get("patient")), "Patient", self._ehr.base_url)
                for patient in [whose] if whose in patients else patients:
                    found[str(patient), key[-1][:10]].append(resource)
        return found


def _key(resource: Resource) -> tuple[str, ...] | None:
    """The natural key; none for what is not shaped as R4 says, which tells of no fact that could be compared."""
    try:
        return natural_key(resource)
    except (AttributeError, LookupError, TypeError, ValueError):
        return None


def _around(day: str) -> list[str]:
    """The day and its neighbours: the same instant can be written as another day in another zone."""
    try:
        middle = date.fromisoformat(day)
        return [day, (middle - timedelta(days=1)).isoformat(), (middle + timedelta(days=1)).isoformat()]
    except (ValueError, OverflowError):
        return [day]
