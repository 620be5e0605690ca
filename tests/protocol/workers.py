"""What a worker does with the intent that it holds, one move at a time; between any two it can die or its lease can run out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from protocol.ehr import PERSON, Answer, Request, Shows
from protocol.engine import CUT, Asked, Link, Plan, Sight, live
from protocol.explore import Move, Violation
from protocol.world import IDLE, At, Worker, World, name_of

from fhir_writeback_dagster.commit.protocol.transitions import TABLE, Action, Event, State

if TYPE_CHECKING:
    from protocol.model import Model

CLAIMABLE = frozenset(state for state, event in TABLE if event is Event.CLAIM)


def moves(model: Model, world: World) -> Iterator[Move[World]]:
    for n, worker in enumerate(world.workers):
        if worker.at is At.IDLE:
            if n == 0 or world.workers[0].at is not At.IDLE:
                yield from _claim(model, world, n)
            continue
        try:
            yield from _STEPS[worker.at](model, world, n, worker)
        except Violation as violation:
            yield Move(f"{name_of(worker)} goes on", violation)


def _claim(model: Model, world: World, n: int) -> Iterator[Move[World]]:
    for revision, intent in enumerate(world.intents, 1):
        if intent.life.state in CLAIMABLE and model.claimable(world, revision):
            now, actions = model.apply(world, revision, Event.CLAIM)
            at = At.LOOKING if Action.LOOK in actions else At.CLAIMED
            worker = Worker(revision, newest=True, at=at)
            yield model.move(f"a worker claims r{revision}", now.put(n, worker), tells=(n, revision, Event.CLAIM))


def _tell(
    model: Model,
    world: World,
    n: int,
    event: Event,
    doing: str,
    *,
    link: Link | None = None,
    quiet: bool = True,
    fault: bool = False,
) -> Move[World]:
    """A worker says what happened; with it, in the same transaction, goes the link where there is one."""
    worker = world.workers[n]
    revision = worker.revision
    if link is not None and _holds(model, world, worker, event):
        if not any(r.had & 1 << revision for r in world.resources):
            raise Violation("nothing_lost", f"r{revision} is called committed and never stood in the EHR")
        world = world._replace(link=link)
    world, actions = model.apply(world, revision, event, newest=worker.newest, quiet=quiet)
    if event is Event.REVIEW and model.judges_reviews:
        _judge(model, world, revision)
    if event is Event.REFUSE and world.budget.rejections == model.budget.rejections:
        raise Violation("nobody_asked_in_vain", f"r{revision} is given up, and the EHR never refused it")
    goes_on = Action.LEASE in actions and Action.TRANSMIT not in actions
    after = Worker(revision, worker.newest, At.CLAIMED) if goes_on else IDLE
    text = f"{name_of(worker)} {doing}: {event.name}"
    return model.move(text, world.put(n, after), fault=fault, tells=(n, revision, event))


def _holds(model: Model, world: World, worker: Worker, event: Event) -> bool:
    life = world.intents[worker.revision - 1].life
    after = live(model.rules.step, life, event, newest=worker.newest or not model.rules.fences).life
    return after.state is State.COMMITTED is not life.state


def _judge(model: Model, world: World, revision: int) -> None:
    """A person is asked where a person changed the resource, has an earlier revision already, or the target does not tell."""
    intent, earlier = world.intents[revision - 1], world.intents[: revision - 1]
    if intent.life.state is not State.IN_REVIEW or not model.tier.search or intent.given_up:
        return
    if not any(r.says <= PERSON for r in world.resources) and not any(i.life.state is State.IN_REVIEW for i in earlier):
        raise Violation("nobody_asked_in_vain", f"r{revision} goes to a person, and nobody else touched the fact")


def _check(model: Model, world: World, n: int, worker: Worker) -> Iterator[Move[World]]:
    """The re-check, and with it the plan."""
    revision, budget = worker.revision, world.budget
    for kind, event, doing in (
        ("revocations", Event.WITHDRAW, "re-checks, consent is gone"),
        ("busy", Event.RETRY, "cannot read the chart"),
        ("rejections", Event.REFUSE, "finds that it cannot be sent"),
        ("stops", Event.STOP, "is told to stop"),
    ):
        if budget.has(kind):
            yield _tell(model, world.spend(kind), n, event, doing, fault=True)
    newer = world.intents[revision:]
    if world.link.revision > revision or any(i.life.state not in {State.WITHDRAWN, State.DISCARDED} for i in newer):
        yield _tell(model, world, n, Event.SUPERSEDE, "re-checks")
        return
    doubt = any((i.life.unanswered or i.life.accepted) and i.life.state is State.IN_REVIEW for i in world.intents[: revision - 1])
    rules, tier, link = model.rules, model.tier, world.link
    if not rules.needs_sight(tier, link):
        yield _plan(model, world, n, worker, None, doubt=doubt)
        return
    yield _plan(model, world, n, worker, rules.see(tier, link, world.resources), doubt=doubt)
    if link.revision and budget.has("pages"):
        yield _tell(model, world.spend("pages"), n, rules.page("read", 404).event, "reads a gateway's page", fault=True)
    if rules.searches(tier, link) and budget.has("cuts"):
        yield _plan(model, world.spend("cuts"), n, worker, CUT, doubt=doubt)


def _plan(model: Model, world: World, n: int, worker: Worker, sight: Sight | None, *, doubt: bool) -> Move[World]:
    revision = worker.revision
    plan = model.rules.plan(world.link, revision, sight, doubt=doubt)
    cut = sight is CUT
    if isinstance(plan, Event):
        link = Link(revision, sight.version) if plan is Event.SETTLED and sight is not None else None
        if link is not None and not (model.tier.keeps_identifier or world.intents[revision - 1].life.unanswered):
            raise Violation("ours_stays_ours", f"r{revision} is taken for somebody else's")
        return _tell(model, world, n, plan, "searches in part" if cut else "re-checks", link=link, fault=cut)
    if worker.newest:
        world = world.put_intent(revision, world.intents[revision - 1]._replace(checked=True))
    text = f"{name_of(worker)} {'searches in part' if cut else 're-checks'}, plans {'an update' if plan.update else 'a create'}"
    return model.move(text, world.put(n, worker._replace(at=At.CHECKED, plan=plan)), fault=cut)


def _mark(model: Model, world: World, n: int, worker: Worker) -> Iterator[Move[World]]:
    marked = worker._replace(at=At.MARKED)
    if not model.rules.marks_before_sending:
        yield model.move(f"{name_of(worker)} goes to send", world.put(n, marked))
        return
    now, actions = model.apply(world, worker.revision, Event.PASSED, newest=worker.newest)
    goes = Action.TRANSMIT in actions
    text = f"{name_of(worker)} {'commits the send marker' if goes else 'finds that it may not send'}"
    yield model.move(text, now.put(n, marked if goes else IDLE), tells=(n, worker.revision, Event.PASSED))


def _send(model: Model, world: World, n: int, worker: Worker) -> Iterator[Move[World]]:
    if not worker.newest and model.rules.keeps_deadline and model.rules.fences:
        yield model.move(f"{name_of(worker)} is out of time and does not send", world.put(n, IDLE))
        return
    if not (worker.newest and world.intents[worker.revision - 1].checked):
        raise Violation("fresh_recheck", f"r{worker.revision} is sent on a re-check from before its last claim")
    assert isinstance(worker.plan, Plan)
    request = Request(worker.revision, worker.plan.update, worker.plan.base, astray=worker.plan.astray)
    sent = worker._replace(at=At.WAITING, plan=(), request=request)
    yield model.move(f"{name_of(worker)} sends", world.put(n, sent))


def _record(model: Model, world: World, n: int, worker: Worker) -> Iterator[Move[World]]:
    revision, request = worker.revision, worker.request
    assert isinstance(request, Request)
    answer = worker.heard if isinstance(worker.heard, Answer) else None
    asked = Asked(revision, request.update, world.intents[revision - 1].life.unanswered)
    if not model.rules.marks_before_sending:
        world, _ = model.apply(world, revision, Event.PASSED, newest=worker.newest)
    if answer is not None and answer.shows is Shows.NOTHING:
        if world.budget.has("busy"):
            lost = model.rules.unlocated(update=request.update)
            yield _tell(model, world.spend("busy"), n, lost.event, "cannot read what Location names", fault=True)
        answer = model.rules.located(model.tier, world.link, answer, world.resources)
    outcome = model.rules.answered(model.tier, asked, answer, world.resources)
    link = None
    if answer is not None and outcome.event is Event.CONFIRM:
        link = Link(revision, answer.version or world.resources[0].version, astray=answer.shows is Shows.ANOTHERS)
    doing = f"records {answer.status if answer else 'a silence'}"
    yield _tell(model, world, n, outcome.event, doing, link=link, quiet=outcome.quiet)


def _look(model: Model, world: World, n: int, worker: Worker) -> Iterator[Move[World]]:
    if world.budget.has("busy"):
        yield _tell(model, world.spend("busy"), n, Event.LOSE, "cannot look", fault=True)
    if world.budget.has("stops"):
        yield _tell(model, world.spend("stops"), n, Event.STOP, "is told to stop", fault=True)
    if model.tier.refuses_looks:
        event = model.rules.refused(given_up=world.intents[worker.revision - 1].given_up)
        yield _tell(model, world, n, event, "is not let look")
        return
    rules, link = model.rules, world.link
    sight = rules.see(model.tier, link, world.resources)
    found = "cannot ask" if sight is None else f"finds {f'r{sight.says}' if sight.many else 'nothing'}"
    seen = worker._replace(at=At.LOOKED, heard=() if sight is None else sight)
    yield model.move(f"{name_of(worker)} looks and {found}", world.put(n, seen))
    if world.budget.has("cuts") and rules.searches(model.tier, link):
        seen = worker._replace(at=At.LOOKED, heard=CUT)
        yield model.move(f"{name_of(worker)} looks and is shown a part", world.spend("cuts").put(n, seen), fault=True)
    if world.budget.has("pages") and not rules.searches(model.tier, link):
        event = Event.LOSE if rules.page("read", 404).event is Event.RETRY else Event.REVIEW
        yield _tell(model, world.spend("pages"), n, event, "reads a gateway's page", fault=True)


def _conclude(model: Model, world: World, n: int, worker: Worker) -> Iterator[Move[World]]:
    sight = worker.heard if isinstance(worker.heard, Sight) else None
    given_up = world.intents[worker.revision - 1].given_up
    event = model.rules.looked(world.link, worker.revision, sight, given_up=given_up)
    link = Link(worker.revision, sight.version) if event is Event.CONFIRM and sight is not None else None
    yield _tell(model, world, n, event, "concludes", link=link)


_STEPS = {
    At.CLAIMED: _check,
    At.CHECKED: _mark,
    At.MARKED: _send,
    At.WAITING: lambda *_: iter(()),
    At.ANSWERED: _record,
    At.LOOKING: _look,
    At.LOOKED: _conclude,
}
