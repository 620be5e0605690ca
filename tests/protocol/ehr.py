"""The EHR as the explorer's model sees it: one business key, and what a server of each tier guarantees.

A resource is what it says (a revision, or a person's words), its version, the revisions that it ever said, and whether the search
index shows it yet. A request is on its way or in the server's hands: where a server needs two steps to look and to create,
another request can come between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

from protocol.explore import Violation

from fhir_writeback_dagster.commit.protocol.error_classes import RequestKind as Kind

PERSON = 0
"""In place of a revision: what a person wrote there."""
MOVED = -1
"""In place of a revision: a person filed it into another patient's chart."""
ANOTHERS = -2
"""In place of a revision: a resource of another patient, which no revision ever stood in."""


@dataclass(frozen=True, slots=True)
class Tier:
    """What a target offers against doing a thing twice; ``kind`` is what its create is to the error_classes."""

    name: str
    create: Literal["client_id", "vendor_key", "revision_key", "if_none_exist", "racy_if_none_exist", "plain", "mediated"]
    kind: Kind = "create"
    search: bool = True
    """Our identifier survives and can be searched for."""
    if_match: bool = True
    keeps_identifier: bool = True
    """Without it a search shows ours among others', known by its content alone."""
    indexes_at_once: bool = False
    """A search shows what is stored."""
    by_time: bool = False
    """An update names the second in which the resource was changed last, in place of a version."""
    refuses_looks: bool = False
    """Whatever is searched for or read is refused."""


CLIENT_ID = Tier("client-assigned id", "client_id", kind="update")
VENDOR_KEY = Tier("vendor idempotency key", "vendor_key")
REVISION_KEY = Tier("vendor idempotency key of a revision", "revision_key")
ATOMIC = Tier("atomic If-None-Exist", "if_none_exist", kind="conditional_create")
RACY = Tier("non-atomic If-None-Exist", "racy_if_none_exist", kind="conditional_create")
SEARCH = Tier("search before create", "plain")
NOTHING = Tier("nothing", "plain", search=False)
MEDIATED = Tier("mediated submission", "mediated")
NO_IF_MATCH = Tier("If-Match ignored", "if_none_exist", kind="conditional_create", if_match=False)
BY_TIME = Tier("If-Unmodified-Since", "if_none_exist", kind="conditional_create", by_time=True)
BY_CONTENT = Tier("identifiers dropped", "plain", keeps_identifier=False, indexes_at_once=True)
BLIND = Tier("looks refused", "if_none_exist", kind="conditional_create", refuses_looks=True)

_REFUSES_SECOND = {"client_id": 412, "vendor_key": 409, "revision_key": 409}


class Phase(IntEnum):
    ON_ITS_WAY = 0
    IN_HAND = 1


class Request(NamedTuple):
    """``base`` is the version that an update expects (`If-Match`); 0 for a create. ``astray``: it names a resource of another
    patient.
    """

    revision: int
    update: bool
    base: int
    phase: Phase = Phase.ON_ITS_WAY
    astray: bool = False


class Resource(NamedTuple):
    """Bit n of ``had``: revision n stood here at some time (what ``_history`` shows). ``fresh``: it was changed within the second
    that is not over yet; ``version`` is that second, where a tier goes by the time.
    """

    says: int
    version: int
    had: int
    indexed: bool
    fresh: bool = False


class Shows(IntEnum):
    """What stands in an answer, beside its status."""

    OURS = 0
    """The resource that the request was about, or an error of the EHR's own."""
    NOTHING = 1
    """No body: `Location` names the resource."""
    ANOTHERS = 2
    """The answer to another request, or another patient's resource."""
    PAGE = 3
    """The page of something before the EHR, which may have seen the request or not."""


class Answer(NamedTuple):
    """A status, and the resource as the answer shows it."""

    status: int
    says: int = PERSON
    version: int = 0
    had: int = 0
    shows: Shows = Shows.OURS


Resources = tuple[Resource, ...]
Served = tuple[Resources, Request | None, Answer | None]
"""The resources after it, the request while the server has it in hand, the answer once there is one."""


def serve(tier: Tier, resources: Resources, request: Request, *, race: bool) -> Iterator[Served]:
    """What the server may do next with ``request``; ``race``: another create of the key is in hand.

    :raises Violation: it does what must never be done.
    """
    if request.update:
        yield _update(tier, resources, request)
    elif request.phase is Phase.IN_HAND:
        yield _create(tier, resources, request)
        if tier.create == "mediated":
            yield resources, None, None  # declined, and nobody is told
    elif tier.create == "mediated":
        yield resources, request._replace(phase=Phase.IN_HAND), Answer(202)
    else:
        yield _arrive(tier, resources, request, race=race)


def _arrive(tier: Tier, resources: Resources, request: Request, *, race: bool) -> Served:
    if tier.create == "plain":
        return _create(tier, resources, request)
    there = [r for r in resources if _knows(tier, r, request)]
    if there:
        return resources, None, Answer(_REFUSES_SECOND.get(tier.create, 200), *there[0][:3])
    if tier.create in _REFUSES_SECOND:
        return _create(tier, resources, request)
    if race and tier.create == "if_none_exist":
        return resources, None, Answer(409)
    return resources, request._replace(phase=Phase.IN_HAND), None


def _knows(tier: Tier, resource: Resource, request: Request) -> bool:
    """Does the server see that ``request`` would make a second one of ``resource``?"""
    if tier.create == "revision_key":
        return bool(resource.had & 1 << request.revision)
    return resource.indexed or tier.create != "racy_if_none_exist"


def _create(tier: Tier, resources: Resources, request: Request) -> Served:
    if resources:
        raise Violation("one_resource", f"r{request.revision} is created beside the resource that is there")
    new = Resource(request.revision, 1, 1 << request.revision, indexed=tier.indexes_at_once, fresh=tier.by_time)
    return (new,), None, Answer(201, *new[:3])


def _update(tier: Tier, resources: Resources, request: Request) -> Served:
    if request.astray:
        raise Violation("own_patient", f"r{request.revision} is written into another patient's resource")
    now = resources[0]
    if tier.if_match and request.base != now.version:
        return resources, None, Answer(412, *now[:3])
    if now.says == PERSON:
        raise Violation("person_stands", f"r{request.revision} overwrites what a person wrote")
    if now.says == MOVED:
        raise Violation("own_patient", f"r{request.revision} is written into the chart of another patient")
    if now.says > request.revision:
        raise Violation("none_reverted", f"r{request.revision} overwrites r{now.says}")
    had = now.had | 1 << request.revision
    new = now._replace(says=request.revision, version=_next_version(now), had=had, fresh=tier.by_time)
    return (new,), None, Answer(200, *new[:3])


def _next_version(now: Resource) -> int:
    return now.version if now.fresh else now.version + 1


def edited(tier: Tier, resources: Resources, says: int = PERSON) -> Resources:
    """A person changes what stands there."""
    now = resources[0]
    return (now._replace(says=says, version=_next_version(now), fresh=tier.by_time),)


def inert(tier: Tier, resources: Resources, request: Request) -> bool:
    """Nobody waits for ``request`` and it can change nothing any more: versions only rise, resources stay."""
    if request.update:
        return not request.astray and tier.if_match and request.base != resources[0].version
    return bool(resources) and tier.create in {"client_id", "vendor_key", "if_none_exist"} and request.phase is Phase.ON_ITS_WAY
