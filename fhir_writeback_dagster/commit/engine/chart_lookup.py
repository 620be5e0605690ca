"""The patients' chart as far as a first create must know it: who else has told of this fact already?"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from fhir_writeback_dagster.commit.adapters.search import token
from fhir_writeback_dagster.commit.adapters.superseding import key_of
from fhir_writeback_dagster.commit.fhir_client import FhirClient, Unreadable
from fhir_writeback_dagster.commit.protocol.error_classes import ErrorClass, Recovery
from fhir_writeback_dagster.commit.protocol.identity import bears
from fhir_writeback_dagster.commit.protocol.model import Intent
from fhir_writeback_dagster.rules.fhir.natural_key import natural_key, same_fact
from fhir_writeback_dagster.rules.fhir.references import own
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.rules.target.matrix import Vendor
from fhir_writeback_dagster.rules.target.search_forms import Form, chart_forms, codes_of, is_narrow, parameters

_TOO_WIDE = frozenset({"malformed", "unprocessable", "refused"})
"""Classes of answers to a search that may want another parameter."""
_ByDay = dict[tuple[str, str], list[Resource]]
"""Patient id and day of the natural key → resources."""


@dataclass(frozen=True, slots=True)
class _Read:
    """A search of a few patients' charts that is on its way, or done; ``codes``: what it finds in any case."""

    task: asyncio.Task[_ByDay]
    codes: frozenset[tuple[str, str]]

    @property
    def failed(self) -> bool:
        return self.task.done() and (self.task.cancelled() or self.task.exception() is not None)


class ChartLookup:
    """One search a type and a few patients, kept while they are worked on.

    :param system: our own identifier system: what bears another key of it is known to the ledger, and left out.
    :param vendor: whose matrix says what a search has to name beside the patients.
    :param patients: how many patients one search may name.
    """

    def __init__(self, ehr: FhirClient, system: str, vendor: Vendor, patients: int = 1) -> None:
        self._ehr, self._system, self._vendor, self._patients = ehr, system, vendor, patients
        self._forms: dict[str, list[Form]] = {}
        self._known: dict[tuple[str, str], _Read] = {}

    def expect(self, items: Iterable[Intent]) -> None:
        """These will be asked for: begin to read what is not known yet, several patients in one search, who was refused alone."""
        wanted: dict[str, dict[str, list[Resource]]] = defaultdict(lambda: defaultdict(list))
        alone: set[str] = set()
        for item in items:
            if not self._is_known(item):
                wanted[item.resource_type][item.patient_id].append(item.payload)
            if item.refused_since:
                alone.add(item.patient_id)
        for resource_type, by_patient in wanted.items():
            listed = sorted(by_patient.keys() - alone)
            together = [listed[at : at + self._patients] for at in range(0, len(listed), self._patients)]
            for some in [*together, *([patient] for patient in sorted(by_patient.keys() & alone))]:
                self._begin(some, resource_type, [payload for patient in some for payload in by_patient[patient]])

    def _begin(self, patients: Sequence[str], resource_type: str, payloads: Sequence[Resource]) -> None:
        task = asyncio.create_task(self._search(patients, resource_type, payloads))
        read = _Read(task, frozenset[tuple[str, str]]().union(*map(codes_of, payloads)))
        self._known.update(((patient, resource_type), read) for patient in patients)

    async def alike(self, item: Intent, *, fresh: bool = False) -> list[Resource]:
        """Resources in the patient's chart that could tell of the same fact; those that bear another key of ours do not.

        :param fresh: search again; after a write without an answer, what was read before it proves nothing.
        :raises Unreadable: the chart could not be read.
        """
        key = natural_key(item.payload)
        if key is None:
            return []
        if fresh:
            self._known.pop((item.patient_id, item.resource_type), None)
        self.expect([item])
        found = await self._chart_of(item)
        near = (r for day in _around(key[-1][:10]) for r in found.get((item.patient_id, day), ()))
        return [r for r in near if same_fact(item.payload, r) and not self._of_another_fact(item, r)]

    async def _chart_of(self, item: Intent) -> _ByDay:
        """The chart of the item's patient. Who was refused together with others is asked for alone: a closed chart closes no
        other.
        """
        place = (item.patient_id, item.resource_type)
        together = self._known[place]
        try:
            return await together.task
        except Unreadable as refusal:
            if self._patients == 1 or not refusal.refused:
                raise
        if self._known.get(place) is together:
            self._begin([item.patient_id], item.resource_type, [item.payload])
        return await self._known[place].task

    def forget(self, patients: Iterable[str]) -> None:
        """Let go of patients who are done."""
        done = set(patients)
        for place in [place for place in self._known if place[0] in done]:
            del self._known[place]

    def _of_another_fact(self, item: Intent, resource: Resource) -> bool:
        return bears(resource, self._system) and not bears(resource, self._system, key_of(item))

    def _is_known(self, item: Intent) -> bool:
        read = self._known.get((item.patient_id, item.resource_type))
        if read is None or read.failed:
            return False
        return codes_of(item.payload) <= read.codes or not is_narrow(self._forms_of(item.resource_type)[0])

    def _forms_of(self, resource_type: str) -> list[Form]:
        """The forms of a type; the one that the EHR took comes first."""
        if resource_type not in self._forms:
            self._forms[resource_type] = chart_forms(self._vendor, resource_type)
        return self._forms[resource_type]

    async def _search(self, patients: Sequence[str], resource_type: str, payloads: Sequence[Resource]) -> _ByDay:
        """The charts, by the first form that the EHR takes.

        :raises Unreadable: it takes none, or they cannot be read now.
        """
        refusal: Unreadable | None = None
        for form in list(self._forms_of(resource_type)):
            stated = parameters(form, resource_type, payloads)
            if stated is None:
                continue
            more = [(name, ",".join(token(*one) if one[0] else one[1] for one in values)) for name, values in stated]
            try:
                found = await self._read(patients, resource_type, more)
            except Unreadable as error:
                if error.outcome.code not in _TOO_WIDE:
                    raise
                refusal = refusal or error
                continue
            others = [other for other in self._forms[resource_type] if other != form]
            self._forms[resource_type] = [form, *others]
            return found
        raise refusal or Unreadable(ErrorClass("chart_unsearchable", Recovery.QUARANTINE), "the chart", self._ehr.base_url)

    async def _read(self, patients: Sequence[str], resource_type: str, more: Sequence[tuple[str, str]]) -> _ByDay:
        """Whose a resource is is read from it. What is another's is left out. What does not say whose it is is the patient's
        who was asked for; where several were asked for together, each is asked for alone then.
        """
        found: _ByDay = defaultdict(list)
        params = [("patient", ",".join(f"Patient/{patient}" for patient in patients)), *more]
        async for page in self._ehr.pages(resource_type, params):
            for resource in page:
                key = _key(resource)
                if key is None:
                    continue
                named = own(resource.get("subject", resource.get("patient")), self._ehr.bases)
                if named is None and len(patients) > 1:
                    each = [await self._read([patient], resource_type, more) for patient in patients]
                    return {place: listed for one in each for place, listed in one.items()}
                whose = patients[0] if named is None else named.id if named.resource_type == "Patient" else None
                if whose is not None and whose in patients:
                    found[whose, key[-1][:10]].append(resource)
        return found


def _key(resource: Resource) -> tuple[str, ...] | None:
    """The natural key; none for what is not shaped as R4 says, which tells of no fact that could be compared."""
    try:
        return natural_key(resource)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return None


def _around(day: str) -> list[str]:
    """The day and its neighbours: the same instant can be written as another day in another zone."""
    try:
        middle = date.fromisoformat(day)
        return [day, (middle - timedelta(days=1)).isoformat(), (middle + timedelta(days=1)).isoformat()]
    except (ValueError, OverflowError):
        return [day]
