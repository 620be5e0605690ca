"""What an adapter answers when it is asked how one intent becomes a request, and what it may look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from fhir_writeback_dagster.commit.protocol.answer import Answer
from fhir_writeback_dagster.commit.protocol.changes import Refuse, Review, Settled, Supersede
from fhir_writeback_dagster.commit.protocol.error_classes import ErrorClass, RequestKind
from fhir_writeback_dagster.commit.protocol.identity import ResourceIdentity
from fhir_writeback_dagster.commit.protocol.model import Intent, Standing
from fhir_writeback_dagster.rules.fhir.resource import Resource
from fhir_writeback_dagster.rules.target.capabilities import Target

Precondition = Literal["if_none_exist", "idempotency_key", "search", "if_match", "if_unmodified_since", "none"]


@dataclass(frozen=True, slots=True)
class WirePlan:
    """One request, whole: an adapter need not speak FHIR JSON. ``path`` is below the base; ``expected`` is what should stand
    in the EHR afterwards (ids, versions and what the server adds aside).
    """

    request: RequestKind
    verb: Literal["create", "update"]
    precondition: Precondition
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    expected: Resource
    identity: ResourceIdentity
    """By what an answer, and the resource that it shows, are known as this one's."""
    entry: Resource | None = None
    """The same as an entry of a batch Bundle; None where it has to go alone."""
    theirs: frozenset[str] = frozenset()
    """Of an update: the elements that others changed since our first write, which it leaves alone (`commit.merge`)."""


@dataclass(frozen=True, slots=True)
class NotNow:
    """It cannot be planned now; what it needs to know of the target or the chart has to be read again later."""

    reason: str


Halt = NotNow | Review | Refuse | Supersede
"""It cannot be sent now, or not without a person."""
Plan = WirePlan | Settled | Halt


@dataclass(frozen=True, slots=True)
class ChartFacts:
    """What the chart holds about the fact: ``alike`` are resources with its natural key that are not ours; ``ours`` those that
    bear its business key (None: the search for them cannot be believed); ``current`` is the answer to a read of the linked one.
    """

    alike: Sequence[Resource] = ()
    current: Answer | None = None
    ours: Sequence[Resource] | None = ()


@dataclass(frozen=True, slots=True)
class Locators:
    """By what a write can be found again; neither: nothing can prove that it was not applied."""

    identifier: bool
    natural_key: bool


class Adapter(Protocol):
    """How one vendor's EHR is written to. Pure: facts come in as arguments, requests go out as values.

    Four verbs: *capabilities* (what it takes, by matrix and CapabilityStatement), *plan*, *interpret* (with `recognise`, for
    what a success shows) and *reconcile*. The ``needs_*`` say which facts a plan is made of.
    """

    @property
    def capabilities(self) -> Target:
        """What the target takes."""

    def needs_chart(self, item: Intent) -> bool:
        """Is the natural key to be looked up in the chart before :meth:`plan`?"""

    def needs_search(self, item: Intent) -> bool:
        """Is the business key to be searched for before :meth:`plan`, because no precondition guards the create?"""

    def needs_current(self, item: Intent) -> bool:
        """Is the linked resource to be read before :meth:`plan`?"""

    def identity(self, item: Intent) -> ResourceIdentity:
        """By what the resource of ``item`` is known."""

    def plan(self, item: Intent, facts: ChartFacts) -> Plan:
        """How ``item`` is sent, or why not."""

    def interpret(self, plan: WirePlan, answer: Answer) -> ErrorClass:
        """The class of an answer, with the vendor's own codes and bodies."""

    def recognise(self, plan: WirePlan, answer: Answer) -> Standing | None:
        """What a successful answer shows to stand in the EHR; None where it shows nothing, or what is not ``plan``'s: then it is
        looked up.
        """

    def judge(self, plan: WirePlan, standing: Standing) -> bool:
        """Does ``standing`` say what ``plan`` wanted to be said?"""

    def reconcile(self, item: Intent) -> Locators:
        """By what a first write of ``item`` that had no answer can be found, or proved absent."""
