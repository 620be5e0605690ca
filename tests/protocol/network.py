"""What the network and the server do with requests, and what goes wrong on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from protocol.ehr import MOVED, PERSON, Answer, Phase, Request, Shows, edited, serve
from protocol.explore import Move, Violation
from protocol.world import IDLE, At, Worker, World, name_of

if TYPE_CHECKING:
    from protocol.model import Model


def moves(model: Model, world: World) -> Iterator[Move[World]]:
    for n, worker in enumerate(world.workers):
        if worker.at is At.WAITING and isinstance(worker.request, Request):
            yield from _served(model, world, worker.request, n)
            yield from _silence(model, world, n, worker, worker.request)
        if worker.at is not At.IDLE and world.budget.has("crashes"):
            dead = world.spend("crashes").put(n, IDLE).orphan(worker)
            yield model.move(f"{name_of(worker)} dies", dead, fault=True)
    for request in dict.fromkeys(world.orphans):
        yield from _served(model, world, request, None)
        if model.bounded:  # without the bound it can be on its way for ever, which is the same
            yield model.move(f"the late request of r{request.revision} is lost", world.without(request), environment=True)
    yield from _around(model, world)


def _served(model: Model, world: World, request: Request, n: int | None) -> Iterator[Move[World]]:
    """The server's next step with a request; ``n``: the worker that waits for its answer."""
    whose = f"the {'late ' if n is None else ''}request of r{request.revision}"
    in_hand = sum(1 for r in world.requests() if r.phase is Phase.IN_HAND and not r.update)
    race = in_hand > (request.phase is Phase.IN_HAND and not request.update)
    try:
        served = list(serve(model.tier, world.resources, request, race=race))
    except Violation as violation:
        yield Move(f"{whose} is carried out", violation)
        return
    for resources, still, answer in served:
        now = world._replace(resources=resources)
        if n is None:
            now = now.without(request)
            now = now.add(still) if still else now
        else:
            now = _answered(now, n, world.workers[n], request, still, answer)
        done = f"answered {answer.status}" if answer else "taken up" if still else "declined"
        yield model.move(f"{whose} is {done}", now, environment=True)
        if answer is not None and n is not None and answer.status in _SUCCESS:
            for kind, said, how in _said_otherwise(answer):
                if now.budget.has(kind):
                    heard = now.spend(kind).put(n, now.workers[n]._replace(heard=said))
                    yield model.move(f"{whose} is done and answered {how}", heard, fault=True)


_SUCCESS = (200, 201)
_PAGE = Answer(404, shows=Shows.PAGE)


def _said_otherwise(answer: Answer) -> Iterator[tuple[str, Answer, str]]:
    """What was done, told so that it has to be read with care: the fault, what comes in place of ``answer``, and in words."""
    yield "swaps", Answer(answer.status, shows=Shows.ANOTHERS), "with another's resource"
    yield "bare", Answer(answer.status, shows=Shows.NOTHING), "without a body"
    yield "denials", Answer(429), "429"


def _answered(now: World, n: int, worker: Worker, request: Request, still: Request | None, answer: Answer | None) -> World:
    if answer is None:
        return now.put(n, worker._replace(request=still or ()))
    if still is not None:
        now = now.add(still)
    return now.put(n, worker._replace(at=At.ANSWERED, request=request._replace(phase=Phase.ON_ITS_WAY), heard=answer))


def _silence(model: Model, world: World, n: int, worker: Worker, request: Request) -> Iterator[Move[World]]:
    """No answer comes in time, wherever the request is by then; or one that says that nothing was done."""
    over = worker._replace(at=At.ANSWERED, request=request._replace(phase=Phase.ON_ITS_WAY))
    if world.budget.has("losses"):
        now = world.spend("losses").put(n, over).orphan(worker)
        yield model.move(f"{name_of(worker)} has no answer in time", now, fault=True)
        if not model.rules.sends_once:
            again = worker._replace(request=request._replace(phase=Phase.ON_ITS_WAY))
            now = world.spend("losses").orphan(worker).put(n, again)
            yield model.move(f"the HTTP library of {name_of(worker)} sends again", now, fault=True)
    if world.budget.has("pages"):
        now = world.spend("pages").put(n, over._replace(heard=_PAGE)).orphan(worker)
        yield model.move(f"a gateway answers {name_of(worker)} {_PAGE.status}", now, fault=True)
    if request.phase is Phase.ON_ITS_WAY:
        for kind, status in (("busy", 429), ("rejections", 422)):
            if world.budget.has(kind):
                now = world.spend(kind).put(n, over._replace(heard=Answer(status)))
                yield model.move(f"the request of r{request.revision} is answered {status}", now, fault=True)


def _around(model: Model, world: World) -> Iterator[Move[World]]:
    if world.budget.has("duplicates"):
        for request in dict.fromkeys(r for r in world.requests() if r.phase is Phase.ON_ITS_WAY):
            twice = world.spend("duplicates").add(request)
            yield model.move(f"the network repeats the request of r{request.revision}", twice, fault=True)
    for n, resource in enumerate(world.resources):
        if not resource.indexed:
            shown = (*world.resources[:n], resource._replace(indexed=True), *world.resources[n + 1 :])
            yield model.move("the search index catches up", world._replace(resources=shown), environment=True)
        if resource.fresh:
            over = (*world.resources[:n], resource._replace(fresh=False), *world.resources[n + 1 :])
            yield model.move("the second is over", world._replace(resources=over), environment=True)
    for kind, says, does in (("edits", PERSON, "changes the resource"), ("moves", MOVED, "files it elsewhere")):
        if world.budget.has(kind) and world.resources and model.may_touch(world):
            touched = world.spend(kind)._replace(resources=edited(model.tier, world.resources, says))
            yield model.move(f"a person {does}", touched, fault=True)
